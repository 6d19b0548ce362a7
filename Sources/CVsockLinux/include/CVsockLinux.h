// SPDX-License-Identifier: Apache-2.0
//
// The Linux interfaces that `import Glibc` does not show to Swift: control messages, epoll, eventfd, signalfd, memfd,
// accept4, several messages per call, error queues, pidfd and AF_VSOCK. Each function is one system call or one macro;
// there is no logic here. All return what the system call returns (-1 and errno on failure).
//
// A function whose declaration needs _GNU_SOURCE is called by syscall(2): Swift reads this header together with the
// C library's own module, which is built without that macro.

#ifndef CVSOCK_LINUX_H
#define CVSOCK_LINUX_H

// For Swift, the C library's module comes first: otherwise struct iovec, struct msghdr and others would seem to be
// declared here, and whoever imports Glibc could not reach their members without importing this module too.
#include <features.h>
#if defined(__swift__) && defined(__GLIBC__)
#pragma clang module import SwiftGlibc
#endif

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <linux/audit.h>
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/vm_sockets.h>

// syscall(2) is variadic, and hidden by a strict language mode; declared here so that neither matters.
extern long syscall(long number, ...);

#pragma clang assume_nonnull begin

// MARK: Control messages, cmsg(3)

static inline size_t cvsock_cmsg_space(size_t byteCount) { return CMSG_SPACE(byteCount); }

static inline size_t cvsock_cmsg_len(size_t byteCount) { return CMSG_LEN(byteCount); }

static inline struct cmsghdr *_Nullable cvsock_cmsg_firsthdr(const struct msghdr *message) {
    return CMSG_FIRSTHDR(message);
}

static inline struct cmsghdr *_Nullable cvsock_cmsg_nxthdr(struct msghdr *message, struct cmsghdr *header) {
    return CMSG_NXTHDR(message, header);
}

static inline void *cvsock_cmsg_data(struct cmsghdr *header) { return CMSG_DATA(header); }

// MARK: epoll(7)
// struct epoll_event is packed on x86-64: its fields are reached here, never by a pointer to a field.

enum {
    CVSOCK_EPOLLIN = EPOLLIN,
    CVSOCK_EPOLLOUT = EPOLLOUT,
    CVSOCK_EPOLLRDHUP = EPOLLRDHUP,
    CVSOCK_EPOLLHUP = EPOLLHUP,
    CVSOCK_EPOLLERR = EPOLLERR,
};
static const uint32_t CVSOCK_EPOLLET = (uint32_t)EPOLLET;

static inline int cvsock_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }

static inline int cvsock_epoll_add(int poller, int descriptor, uint32_t events, uint64_t token) {
    struct epoll_event event = {.events = events, .data = {.u64 = token}};
    return epoll_ctl(poller, EPOLL_CTL_ADD, descriptor, &event);
}

static inline int cvsock_epoll_modify(int poller, int descriptor, uint32_t events, uint64_t token) {
    struct epoll_event event = {.events = events, .data = {.u64 = token}};
    return epoll_ctl(poller, EPOLL_CTL_MOD, descriptor, &event);
}

static inline int cvsock_epoll_remove(int poller, int descriptor) {
    struct epoll_event event = {0};
    return epoll_ctl(poller, EPOLL_CTL_DEL, descriptor, &event);
}

static inline uint32_t cvsock_epoll_events(const struct epoll_event *event) { return event->events; }

static inline uint64_t cvsock_epoll_token(const struct epoll_event *event) { return event->data.u64; }

static inline void cvsock_epoll_set(struct epoll_event *event, uint32_t events, uint64_t token) {
    event->events = events;
    event->data.u64 = token;
}

static inline int cvsock_epoll_wait(int poller, struct epoll_event *events, int capacity, int milliseconds) {
    return epoll_wait(poller, events, capacity, milliseconds);
}

// Linux 5.11: a timeout in nanoseconds. ENOSYS on older kernels.
static inline int cvsock_epoll_pwait2(int poller, struct epoll_event *events, int capacity,
                                      const struct timespec *timeout) {
#if defined(SYS_epoll_pwait2) && defined(__LP64__)
    return (int)syscall(SYS_epoll_pwait2, poller, events, capacity, timeout, (void *)0, (size_t)0);
#else
    (void)poller, (void)events, (void)capacity, (void)timeout;
    errno = ENOSYS;
    return -1;
#endif
}

// MARK: eventfd(2), signalfd(2)

static inline int cvsock_eventfd(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

static inline int cvsock_signalfd(const sigset_t *set) { return signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK); }

static const size_t CVSOCK_SIGNALFD_SIGINFO_SIZE = sizeof(struct signalfd_siginfo);

static inline uint32_t cvsock_signalfd_signal(const void *bytes) {
    struct signalfd_siginfo information;
    memcpy(&information, bytes, sizeof(information));
    return information.ssi_signo;
}

static inline int cvsock_ignore_signal(int number) {
    return signal(number, SIG_IGN) == SIG_ERR ? -1 : 0;
}

// sigaction(2) for SIGBUS with SA_SIGINFO, whose handler is a macro.
static inline int cvsock_catch_bus_error(void (*handler)(int, siginfo_t *_Nullable, void *_Nullable),
                                         struct sigaction *previous) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, previous);
}

// The address whose access the kernel has answered with this signal; none if another process has sent it.
static inline void *_Nullable cvsock_fault_address(const siginfo_t *information) {
    return information->si_code > 0 ? information->si_addr : (void *)0;
}

// BUS_MCEERR_AO, by number as above: memory that nobody has accessed is lost.
static inline bool cvsock_announces_memory_error(const siginfo_t *information) {
    return information->si_code == 5;
}

// MARK: memfd_create(2) and seals, fcntl(2)

static inline int cvsock_memfd_create(const char *name) {
    return (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

// A memfd of huge pages, such as front-ends back guests with.
static inline int cvsock_memfd_create_huge(const char *name) {
    return (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_HUGETLB);
}

// F_ADD_SEALS with F_SEAL_SEAL, F_SEAL_SHRINK and F_SEAL_GROW: by value, because <linux/fcntl.h> clashes with <fcntl.h>
// and the latter shows them to _GNU_SOURCE only.
static inline int cvsock_seal_size(int descriptor) { return fcntl(descriptor, 1024 + 9, 0x0001 | 0x0002 | 0x0004); }

// MADV_DONTDUMP of madvise(2), which is called by number for the same reason as memfd_create.
static inline int cvsock_exclude_from_core_dump(void *base, size_t byteCount) {
    return (int)syscall(SYS_madvise, base, byteCount, 16);
}

// MADV_NOHUGEPAGE
static inline int cvsock_avoid_huge_pages(void *base, size_t byteCount) {
    return (int)syscall(SYS_madvise, base, byteCount, 15);
}

static inline int cvsock_is_huge_page_file(const struct statfs *status) {
    return status->f_type == HUGETLBFS_MAGIC;
}

// MARK: Pipes

static inline int cvsock_pipe(int *descriptors, int nonBlocking) {
    return (int)syscall(SYS_pipe2, descriptors, O_CLOEXEC | (nonBlocking ? O_NONBLOCK : 0));
}

// MARK: Sockets

static inline int cvsock_accept(int listener) {
    return (int)syscall(SYS_accept4, listener, (void *)0, (void *)0, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static inline int cvsock_socket(int domain, int type, int nonBlocking) {
    return socket(domain, type | SOCK_CLOEXEC | (nonBlocking ? SOCK_NONBLOCK : 0), 0);
}

static inline int cvsock_socketpair(int domain, int type, int nonBlocking, int *descriptors) {
    return socketpair(domain, type | SOCK_CLOEXEC | (nonBlocking ? SOCK_NONBLOCK : 0), 0, descriptors);
}

// struct mmsghdr of recvmmsg(2), under a name of our own because <sys/socket.h> shows it to _GNU_SOURCE only.
struct cvsock_mmsghdr {
    struct msghdr msg_hdr;
    unsigned int msg_len;
};

static inline int cvsock_recvmmsg(int descriptor, struct cvsock_mmsghdr *messages, unsigned int count, int flags) {
    return (int)syscall(SYS_recvmmsg, descriptor, messages, count, flags, (void *)0);
}

static inline int cvsock_sendmmsg(int descriptor, struct cvsock_mmsghdr *messages, unsigned int count, int flags) {
    return (int)syscall(SYS_sendmmsg, descriptor, messages, count, flags);
}

// MARK: AF_VSOCK, vsock(7)

static inline struct sockaddr_vm cvsock_sockaddr_vm(uint32_t cid, uint32_t port) {
    struct sockaddr_vm address;
    memset(&address, 0, sizeof(address));
    address.svm_family = AF_VSOCK;
    address.svm_cid = cid;
    address.svm_port = port;
    return address;
}

// SO_VM_SOCKETS_* names for setsockopt(2); their level is AF_VSOCK.
enum {
    CVSOCK_SO_BUFFER_SIZE = SO_VM_SOCKETS_BUFFER_SIZE,
    CVSOCK_SO_BUFFER_MIN_SIZE = SO_VM_SOCKETS_BUFFER_MIN_SIZE,
    CVSOCK_SO_BUFFER_MAX_SIZE = SO_VM_SOCKETS_BUFFER_MAX_SIZE,
    CVSOCK_SO_CONNECT_TIMEOUT = SO_VM_SOCKETS_CONNECT_TIMEOUT,
};

// Level and type of what MSG_ZEROCOPY leaves on a socket's error queue, by number: headers before Linux 6.7 lack them.
enum {
    CVSOCK_SOL_VSOCK = 287,
    CVSOCK_RECVERR = 1,
};

static inline int cvsock_get_local_cid(int device, uint32_t *cid) {
    unsigned int value = 0;
    int result = ioctl(device, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &value);
    *cid = value;
    return result;
}

// MARK: Child processes

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
// <spawn.h> shows it to _GNU_SOURCE only.
extern int posix_spawn_file_actions_addclosefrom_np(posix_spawn_file_actions_t *actions, int first);
#endif

// Closes all descriptors from `first` on in the child. Without a C library that can do it, nothing happens.
static inline int cvsock_spawn_close_from(posix_spawn_file_actions_t *actions, int first) {
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
    return posix_spawn_file_actions_addclosefrom_np(actions, first);
#else
    (void)actions, (void)first;
    return 0;
#endif
}

static inline int cvsock_pidfd_open(pid_t process) {
#ifdef SYS_pidfd_open
    return (int)syscall(SYS_pidfd_open, process, 0);
#else
    (void)process;
    errno = ENOSYS;
    return -1;
#endif
}

// MARK: This process and its threads

extern char *_Nullable *_Null_unspecified environ;

static inline char *_Nullable *_Null_unspecified cvsock_environment(void) { return environ; }

// PR_SET_NAME of prctl(2): the name of the calling thread, cut at 15 bytes.
static inline int cvsock_set_thread_name(const char *name) {
    return (int)syscall(SYS_prctl, 15, name, 0L, 0L, 0L);
}

// sched_getaffinity(2) of the calling thread; the number of bytes that the kernel has filled.
static inline int cvsock_get_affinity(void *mask, size_t byteCount) {
    return (int)syscall(SYS_sched_getaffinity, 0L, byteCount, mask);
}

// sched_setaffinity(2) of the calling thread.
static inline int cvsock_set_affinity(const void *mask, size_t byteCount) {
    return (int)syscall(SYS_sched_setaffinity, 0L, byteCount, mask);
}

// getcpu(2): the processor of the calling thread.
static inline int cvsock_processor(void) {
    unsigned int processor = 0;
    return syscall(SYS_getcpu, &processor, (void *)0, (void *)0) == 0 ? (int)processor : -1;
}

// MARK: Giving up rights: prctl(2), seccomp(2), landlock(7)

// PR_SET_NO_NEW_PRIVS: from here on execve grants nothing that this thread has not got.
static inline int cvsock_set_no_new_privileges(void) {
    return (int)syscall(SYS_prctl, 38, 1L, 0L, 0L, 0L);
}

// SECCOMP_SET_MODE_FILTER for the calling thread, or with SECCOMP_FILTER_FLAG_TSYNC for all. A thread that cannot have
// the filter is returned as its number, more than 0.
static inline int cvsock_install_filter(struct sock_filter *program, unsigned short count, int isForAllThreads) {
    struct sock_fprog filter = {.len = count, .filter = program};
    return (int)syscall(SYS_seccomp, 1, isForAllThreads ? 1L : 0L, &filter);
}

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif

// LANDLOCK_CREATE_RULESET_VERSION: the ABI, 1 or more.
static inline int cvsock_landlock_version(void) {
    return (int)syscall(SYS_landlock_create_ruleset, (void *)0, (size_t)0, 1);
}

// A new set of rules that denies these rights to files (LANDLOCK_ACCESS_FS_*), to the network (LANDLOCK_ACCESS_NET_*,
// from ABI 4 on) and across the domain's border (LANDLOCK_SCOPE_*, from ABI 6 on), as far as `version` knows them.
static inline int cvsock_landlock_create(int version, uint64_t files, uint64_t network, uint64_t scope) {
    uint64_t attributes[3] = {files, network, scope};
    size_t count = version < 4 ? 1 : version < 6 ? 2 : 3;
    return (int)syscall(SYS_landlock_create_ruleset, attributes, count * sizeof(uint64_t), 0);
}

// LANDLOCK_RULE_PATH_BENEATH: grants rights below a directory.
static inline int cvsock_landlock_allow(int ruleset, int directory, uint64_t rights) {
    struct __attribute__((packed)) {
        uint64_t allowed_access;
        int32_t parent_fd;
    } rule = {rights, directory};
    return (int)syscall(SYS_landlock_add_rule, ruleset, 1, &rule, 0);
}

static inline int cvsock_landlock_restrict(int ruleset) {
    return (int)syscall(SYS_landlock_restrict_self, ruleset, 0);
}

// O_PATH: a descriptor that stands for a directory and gives no access to it.
static inline int cvsock_open_directory_path(const char *path) {
    return open(path, 010000000 | O_DIRECTORY | O_CLOEXEC);
}

#pragma clang assume_nonnull end

/* FIONREAD (SIOCINQ): bytes that wait in a socket. 0, or -1 with errno. */
static inline int cvsock_get_unread(int descriptor, int *_Nonnull count)
{
    return ioctl(descriptor, FIONREAD, count);
}

/* TIOCOUTQ (SIOCOUTQ): bytes that were sent and have not left a socket. 0, or -1 with errno. */
static inline int cvsock_get_unsent(int descriptor, int *_Nonnull count)
{
    return ioctl(descriptor, TIOCOUTQ, count);
}

#endif
