/* Options of the sanitizers, compiled in because the helper starts with an empty environment. */

const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

/* Leaks are not looked for: that needs ptrace(2) on a process that is not dumpable, and the helper
 * frees nothing that lives as long as it does. */
const char *__asan_default_options(void)
{
    return "detect_leaks=0:abort_on_error=1:handle_segv=1:detect_stack_use_after_return=1";
}

const char *__ubsan_default_options(void)
{
    return "print_stacktrace=1:halt_on_error=1";
}
