// SPDX-License-Identifier: Apache-2.0
//
// The system calls of a running device daemon: those of this layer, and of the C library and the Swift runtime below it.
// Files can be neither opened nor executed, processes neither started nor traced; the network, mounts, keys, modules,
// io_uring and BPF are out of reach.

import CVsockLinux
import Glibc

extension SystemCallFilter {
    /// What a device does once it has been started.
    static let device = SystemCallFilter(
        rules: descriptors + sockets + events + socketFiles + memory + threads + environment + olderCalls)

    // The values of <linux/sched.h>, <asm-generic/mman-common.h>, <asm-generic/ioctls.h> and <linux/prctl.h>, which are
    // the same on both architectures.
    private static let cloneThread: UInt32 = 0x0001_0000
    private static let protectionExecute: UInt32 = 0x4
    private static let setThreadName: UInt32 = 15
    private static let unreadCount: UInt32 = 0x541b
    private static let terminalMode: UInt32 = 0x5401

    private static let descriptors: [Rule] =
        [
            SYS_read, SYS_readv, SYS_pread64, SYS_write, SYS_writev, SYS_pwrite64, SYS_close, SYS_fcntl, SYS_lseek,
            SYS_dup, SYS_dup3, SYS_pipe2, SYS_fstat, SYS_fstatfs, SYS_ftruncate, SYS_fsync, SYS_fdatasync,
        ].map { Rule($0) } + [
            Rule(SYS_ioctl, .argument(1, equals: unreadCount)),
            Rule(SYS_ioctl, .argument(1, equals: terminalMode)),
        ]

    /// Unix sockets, and those that are there already.
    private static let sockets: [Rule] =
        [
            SYS_bind, SYS_listen, SYS_accept4, SYS_connect, SYS_shutdown, SYS_getsockname, SYS_getpeername,
            SYS_getsockopt, SYS_setsockopt, SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg, SYS_sendto, SYS_sendmsg,
            SYS_sendmmsg,
        ].map { Rule($0) } + [
            Rule(SYS_socket, .argument(0, equals: UInt32(AF_UNIX))),
            Rule(SYS_socketpair, .argument(0, equals: UInt32(AF_UNIX))),
        ]

    private static let events: [Rule] =
        [
            SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_ppoll, SYS_eventfd2,
            SYS_signalfd4, SYS_timerfd_create, SYS_timerfd_settime,
        ].map { Rule($0) }

    /// The files of sockets: looked at, given a mode and an owner, removed.
    private static let socketFiles: [Rule] =
        [
            SYS_newfstatat, SYS_statx, SYS_fchmod, SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_unlinkat, SYS_umask,
            SYS_readlinkat, SYS_getcwd,
        ].map { Rule($0) }

    private static let memory: [Rule] =
        [SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_memfd_create].map { Rule($0) } + [
            Rule(SYS_mmap, .argument(2, mask: protectionExecute, equals: 0)),
            Rule(SYS_mprotect, .argument(2, mask: protectionExecute, equals: 0)),
        ]

    private static let threads: [Rule] =
        [
            SYS_futex, SYS_set_robust_list, SYS_rseq, SYS_sched_yield, SYS_sched_getaffinity, SYS_rt_sigaction,
            SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigtimedwait, SYS_sigaltstack, SYS_tgkill, SYS_restart_syscall,
            SYS_exit, SYS_exit_group, SYS_membarrier, SYS_getcpu,
        ].map { Rule($0) } + [
            // Of the calling thread only, and no policy that puts others behind it.
            Rule(SYS_sched_setaffinity, .argument(0, equals: 0)),
            Rule(SYS_sched_getscheduler, .argument(0, equals: 0)),
        ]
        + [CurrentThread.SchedulingPolicy.other, .batch].map { policy in
            Rule(
                SYS_sched_setscheduler,
                .arguments([
                    SystemCallFilter.Argument(0, equals: 0),
                    SystemCallFilter.Argument(1, equals: UInt32(policy.rawValue)),
                ]))
        } + [
            Rule(SYS_clone, .argument(0, mask: cloneThread, equals: cloneThread)),
            // Its flags are in memory, where no filter sees them; the C library then uses clone.
            Rule(SYS_clone3, .fails(ENOSYS)),
            Rule(SYS_prctl, .argument(0, equals: setThreadName)),
        ]

    private static let environment: [Rule] =
        [
            SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday, SYS_getrandom,
            SYS_gettid, SYS_getpid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_uname,
            SYS_getrusage,
        ].map { Rule($0) }

    /// Calls that newer architectures are without.
    private static let olderCalls: [Rule] = {
        #if arch(x86_64)
        [
            SYS_poll, SYS_epoll_wait, SYS_stat, SYS_lstat, SYS_unlink, SYS_chmod, SYS_chown, SYS_lchown, SYS_dup2,
            SYS_readlink, SYS_time,
        ].map { Rule($0) }
        #else
        []
        #endif
    }()
}
