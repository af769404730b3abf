/* For user-mode Linux on processors with AMX: scripts/vm preloads this.
 *
 * The kernel takes the floating point state of a process only whole (PTRACE_SETREGSET with NT_X86_XSTATE,
 * arch/x86/kernel/fpu/regset.c: EFAULT), and user-mode Linux 6.1 knows of the first 2696 bytes of it. AMX lies
 * behind them, so that its first process would never start. No process of the guest can have AMX (it would
 * have to be asked for, arch_prctl(2)), and so what is not given is in its initial state: zeros. */

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define LARGEST (1 << 16)

static long (*libc_ptrace)(enum __ptrace_request request, ...);

__attribute__((constructor)) static void find(void)
{
    *(void **)&libc_ptrace = dlsym(RTLD_NEXT, "ptrace");
}

static long set_whole(pid_t pid, const struct iovec *given)
{
    static char area[LARGEST];
    struct iovec whole = {.iov_base = area, .iov_len = sizeof(area)};

    if (libc_ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &whole) < 0)
        return -1;
    if (whole.iov_len <= given->iov_len) {
        errno = EFAULT; /* it was something else */
        return -1;
    }
    memcpy(area, given->iov_base, given->iov_len);
    memset(area + given->iov_len, 0, whole.iov_len - given->iov_len);
    return libc_ptrace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list rest;

    va_start(rest, request);
    pid_t pid = va_arg(rest, pid_t);
    void *address = va_arg(rest, void *), *data = va_arg(rest, void *);
    va_end(rest);

    long result = libc_ptrace(request, pid, address, data);
    if (result >= 0 || errno != EFAULT || request != PTRACE_SETREGSET || address != (void *)NT_X86_XSTATE)
        return result;
    return set_whole(pid, data);
}
