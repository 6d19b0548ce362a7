// SPDX-License-Identifier: Apache-2.0
// Preloaded into User Mode Linux so that it runs on processors with AMX.
//
// User Mode Linux up to 6.1 restores its processes' vector registers with PTRACE_SETREGSET and a buffer for the state
// that processors had up to AVX-512 and protection keys (2,696 bytes). The host's kernel wants the whole state that the
// processor can have (11,008 bytes with AMX) and answers EFAULT, which ends the guest at its first process. Here such a
// call is repeated with the rest of the state in its initial condition: zeros, and unmarked in the XSAVE header,
// because guests are given no leave to use it.
//
// Invariant: every other call reaches the kernel as the C library's ptrace(2) would have made it.

#if defined(__linux__) && defined(__x86_64__)

#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif

// Static, because the caller's stacks are 16 KiB; only its one kernel thread makes these calls.
static unsigned char state[32768] __attribute__((aligned(64)));
static size_t state_size;

static long set_whole_state(pid_t pid, const struct iovec *given) {
    if (state_size == 0) {
        struct iovec whole = {.iov_base = state, .iov_len = sizeof state};
        if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &whole) != 0) return -1;
        state_size = whole.iov_len;
        memset(state, 0, sizeof state);
    }
    if (given->iov_len > state_size) {
        errno = EFAULT;
        return -1;
    }
    memcpy(state, given->iov_base, given->iov_len);
    struct iovec whole = {.iov_base = state, .iov_len = state_size};
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...) {
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE) {
        const struct iovec *given = data;
        if (state_size != 0 && given->iov_len < state_size) return set_whole_state(pid, given);
        long result = syscall(SYS_ptrace, request, pid, address, data);
        return result == 0 || errno != EFAULT ? result : set_whole_state(pid, given);
    }
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        long word = 0;
        long result = syscall(SYS_ptrace, request, pid, address, &word);
        if (result != 0) return result;
        errno = 0;
        return word;
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}

#endif
