// SPDX-License-Identifier: Apache-2.0
//
// trace OUT PROGRAM ARGUMENT...: run a program, and write down what it and its threads and
// processes do with files and processes, as JSON lines.
//
//     {"process": 7, "call": "start", "argv": ["python", ...]}        execve
//     {"process": 7, "call": "process", "child": 9}                   fork, vfork, clone
//     {"process": 7, "call": "thread", "threads": 4}                  there are so many now
//     {"process": 7, "call": "open", "path": "/a", "flags": 0, "result": 3, "real": "/b"}
//     {"process": 7, "call": "unlink", "path": "/a", "result": 0}     and what else changes names
//     {"process": 7, "call": "rename", "path": "/a", "to": "/b", "result": 0}
//     {"process": 7, "call": "connect", "path": "/run/x", "result": 0} of AF_UNIX, and bind
//
// A result below 0 is a negated errno. "real" is what an opened path led to. A seccomp filter
// chooses the calls that stop (seccomp(2), SECCOMP_RET_TRACE), so all others cost nothing.
//
// The same filter takes away what Gramine 1.9 does not have: those calls fail with ENOSYS, as does
// the renaming of folders. So who comes to a good end here needs none of them.
//
// Linux on x86-64. Exits as the program does; 126: it cannot be observed here, and why on stderr.

#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define CANNOT 126
#define MAX_ARGUMENTS 64

enum kind { AT, PLAIN, SOCKET };

// Which argument is the path (the descriptor of its folder before it, with AT) or the address.
static const struct watched {
    long number;
    const char *name;
    enum kind kind;
    int argument;
    int flags;  // argument of the flags, -1: none; CREAT: as creat(2) has them
} watched[] = {
#define CREAT (-2)
    {SYS_open, "open", PLAIN, 0, 1},
    {SYS_openat, "open", AT, 1, 2},
    {SYS_creat, "open", PLAIN, 0, CREAT},
    {SYS_unlink, "unlink", PLAIN, 0, -1},
    {SYS_unlinkat, "unlink", AT, 1, -1},
    {SYS_rmdir, "rmdir", PLAIN, 0, -1},
    {SYS_mkdir, "mkdir", PLAIN, 0, -1},
    {SYS_mkdirat, "mkdir", AT, 1, -1},
    {SYS_mknod, "mknod", PLAIN, 0, -1},
    {SYS_mknodat, "mknod", AT, 1, -1},
    {SYS_rename, "rename", PLAIN, 0, -1},
    {SYS_renameat, "rename", AT, 1, -1},
    {SYS_truncate, "truncate", PLAIN, 0, -1},
    {SYS_chmod, "chmod", PLAIN, 0, -1},
    {SYS_fchmodat, "chmod", AT, 1, -1},
    {SYS_chown, "chown", PLAIN, 0, -1},
    {SYS_fchownat, "chown", AT, 1, -1},
    {SYS_connect, "connect", SOCKET, 1, -1},
    {SYS_bind, "bind", SOCKET, 1, -1},
};

// The calls that Gramine 1.9 does not have, of those that programs make (its table of system calls).
// restart_syscall is left out: the kernel makes it of a sleep that a stop interrupted.
static const int missing[] = {
    SYS_flock, SYS_mremap, SYS_shmget, SYS_shmat, SYS_shmctl, SYS_shmdt, SYS_semget, SYS_semop,
    SYS_semctl, SYS_semtimedop, SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_msgctl, SYS_link, SYS_linkat,
    SYS_symlink, SYS_symlinkat, SYS_lchown, SYS_getrusage, SYS_times, SYS_ptrace, SYS_setreuid,
    SYS_setregid, SYS_setresuid, SYS_getresuid, SYS_setresgid, SYS_getresgid, SYS_capget, SYS_capset,
    SYS_utime, SYS_utimes, SYS_futimesat, SYS_utimensat, SYS_personality, SYS_prctl, SYS_sync,
    SYS_syncfs, SYS_sync_file_range, SYS_readahead, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr,
    SYS_removexattr, SYS_io_setup, SYS_io_destroy, SYS_io_getevents, SYS_io_submit, SYS_timer_create,
    SYS_timer_settime, SYS_set_mempolicy, SYS_get_mempolicy, SYS_mq_open, SYS_mq_unlink, SYS_add_key,
    SYS_keyctl, SYS_ioprio_set, SYS_inotify_init, SYS_inotify_init1, SYS_inotify_add_watch,
    SYS_unshare, SYS_splice, SYS_tee, SYS_vmsplice, SYS_signalfd, SYS_signalfd4, SYS_timerfd_create,
    SYS_timerfd_settime, SYS_timerfd_gettime, SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2,
    SYS_perf_event_open, SYS_fanotify_init, SYS_name_to_handle_at, SYS_process_vm_readv, SYS_kcmp,
    SYS_sched_setattr, SYS_sched_getattr, SYS_renameat2, SYS_seccomp, SYS_memfd_create, SYS_bpf,
    SYS_execveat, SYS_userfaultfd, SYS_membarrier, SYS_copy_file_range, SYS_pkey_alloc, SYS_pkey_free,
    SYS_pkey_mprotect, SYS_statx, SYS_rseq, SYS_pidfd_send_signal, SYS_io_uring_setup,
    SYS_io_uring_enter, SYS_io_uring_register, SYS_pidfd_open, SYS_clone3, SYS_openat2,
    SYS_pidfd_getfd, SYS_faccessat2, SYS_process_madvise, SYS_epoll_pwait2,
};

// A call that has begun, by the thread that makes it.
struct begun {
    pid_t thread;
    const struct watched *what;
    long flags;
    char path[PATH_MAX + 64], to[PATH_MAX + 64];
    struct begun *next;
};

static FILE *out;
static struct begun *all_begun;

static void fail(const char *what) {
    fprintf(stderr, "trace: %s: %s\n", what, strerror(errno));
    exit(CANNOT);
}

static void put_string(const char *text) {
    fputc('"', out);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < 0x20 || c > 0x7e)
            fprintf(out, "\\u%04x", c);  // as Latin-1; the reader makes bytes of it
        else
            fputc(c, out);
    }
    fputc('"', out);
}

// A number of /proc/THREAD/status (proc(5)).
static int status_of(pid_t thread, const char *format, int otherwise) {
    char name[64], line[256];
    int number = otherwise;
    snprintf(name, sizeof name, "/proc/%d/status", thread);
    FILE *file = fopen(name, "re");
    if (file) {
        while (fgets(line, sizeof line, file))
            if (sscanf(line, format, &number) == 1)
                break;
        fclose(file);
    }
    return number;
}

static pid_t process_of(pid_t thread) {
    return status_of(thread, "Tgid: %d", thread);
}

static void begin_line(pid_t thread, const char *call) {
    fprintf(out, "{\"process\": %d, \"call\": \"%s\"", process_of(thread), call);
}

static void end_line(void) {
    fputs("}\n", out);
    fflush(out);
}

// A string of another process, page by page: the next one may not be there.
static void read_string(pid_t thread, unsigned long from, char *to, size_t size) {
    size_t have = 0;
    while (have + 1 < size) {
        size_t step = 4096 - (from + have) % 4096;
        if (step > size - 1 - have)
            step = size - 1 - have;
        struct iovec here = {to + have, step}, there = {(void *)(from + have), step};
        ssize_t got = process_vm_readv(thread, &here, 1, &there, 1, 0);
        if (got <= 0)
            break;
        if (memchr(to + have, 0, (size_t)got))
            return;
        have += (size_t)got;
    }
    to[have] = 0;
}

static void link_of(pid_t thread, const char *what, long descriptor, char *to, size_t size) {
    char name[64];
    if (what)
        snprintf(name, sizeof name, "/proc/%d/%s", thread, what);
    else
        snprintf(name, sizeof name, "/proc/%d/fd/%ld", thread, descriptor);
    ssize_t length = readlink(name, to, size - 1);
    to[length < 0 ? 0 : length] = 0;
}

static void absolute(pid_t thread, long folder, const char *path, char *to, size_t size) {
    char base[PATH_MAX] = "";
    if (path[0] != '/')
        link_of(thread, (int)folder == AT_FDCWD ? "cwd" : NULL, folder, base, sizeof base);
    snprintf(to, size, "%s%s%s", base, path[0] == '/' ? "" : "/", path);
}

static unsigned long argument(const struct user_regs_struct *regs, int index) {
    const unsigned long given[] = {regs->rdi, regs->rsi, regs->rdx, regs->r10, regs->r8, regs->r9};
    return given[index];
}

static void finish(const struct begun *call, long result) {
    char real[PATH_MAX + 64];
    begin_line(call->thread, call->what->name);
    fputs(", \"path\": ", out);
    put_string(call->path);
    if (call->to[0]) {
        fputs(", \"to\": ", out);
        put_string(call->to);
    }
    if (call->what->flags != -1)
        fprintf(out, ", \"flags\": %ld", call->flags);
    fprintf(out, ", \"result\": %ld", result);
    if (call->what->flags != -1 && result >= 0) {
        link_of(call->thread, NULL, result, real, sizeof real);
        fputs(", \"real\": ", out);
        put_string(real);
    }
    end_line();
}

static void path_at(pid_t thread, const struct user_regs_struct *regs, const struct watched *what,
                    int index, char to[PATH_MAX + 64]) {
    char path[PATH_MAX];
    long folder = what->kind == AT ? (long)argument(regs, index - 1) : AT_FDCWD;
    read_string(thread, argument(regs, index), path, sizeof path);
    absolute(thread, folder, path, to, PATH_MAX + 64);
}

// Whether the call is to stop again at its end.
static int begin(pid_t thread) {
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GETREGS, thread, NULL, &regs))
        return 0;
    const struct watched *what = NULL;
    for (size_t i = 0; i < COUNT(watched); i++)
        if (watched[i].number == (long)regs.orig_rax)
            what = &watched[i];
    if (!what)
        return 0;
    struct begun *call = calloc(1, sizeof *call);
    if (!call)
        fail("calloc");
    call->thread = thread;
    call->what = what;
    unsigned long where = argument(&regs, what->argument);
    if (what->flags == CREAT)
        call->flags = O_CREAT | O_WRONLY | O_TRUNC;
    else if (what->flags >= 0)
        call->flags = (long)argument(&regs, what->flags);
    if (what->kind == SOCKET) {
        struct sockaddr_un address = {0};
        struct iovec here = {&address, sizeof address}, there = {(void *)where, sizeof address};
        if (argument(&regs, 2) < sizeof address)
            here.iov_len = there.iov_len = argument(&regs, 2);
        if (process_vm_readv(thread, &here, 1, &there, 1, 0) < 0 || address.sun_family != AF_UNIX) {
            free(call);
            return 0;
        }
        int abstract = address.sun_path[0] == 0;
        snprintf(call->path, sizeof call->path, "%s%.*s", abstract ? "@" : "",
                 (int)sizeof address.sun_path - 1, address.sun_path + abstract);
    } else {
        path_at(thread, &regs, what, what->argument, call->path);
    }
    struct stat status;
    int renames = !strcmp(what->name, "rename");
    if (renames)
        path_at(thread, &regs, what, what->argument + (what->kind == AT ? 2 : 1), call->to);
    if (renames && !lstat(call->path, &status) && S_ISDIR(status.st_mode)) {
        regs.orig_rax = (unsigned long)-1;  // the call is left out, and this is its result
        regs.rax = (unsigned long)-ENOSYS;
        ptrace(PTRACE_SETREGS, thread, NULL, &regs);
        finish(call, -ENOSYS);
        free(call);
        return 0;
    }
    call->next = all_begun;
    all_begun = call;
    return 1;
}

static void end(pid_t thread, int alive) {
    struct user_regs_struct regs;
    for (struct begun **at = &all_begun; *at; at = &(*at)->next)
        if ((*at)->thread == thread) {
            struct begun *call = *at;
            *at = call->next;
            if (alive && !ptrace(PTRACE_GETREGS, thread, NULL, &regs))
                finish(call, (long)regs.rax);
            free(call);
            return;
        }
}

static void started(pid_t thread) {
    char name[64], arguments[1 << 16];
    snprintf(name, sizeof name, "/proc/%d/cmdline", thread);
    FILE *file = fopen(name, "re");
    size_t size = file ? fread(arguments, 1, sizeof arguments - 1, file) : 0;
    if (file)
        fclose(file);
    arguments[size] = 0;
    begin_line(thread, "start");
    fputs(", \"argv\": [", out);
    for (size_t at = 0; at < size; at += strlen(arguments + at) + 1) {
        fputs(at ? ", " : "", out);
        put_string(arguments + at);
    }
    fputs("]", out);
    end_line();
}

static void filter(void) {
    struct sock_filter code[8 + 2 * (COUNT(watched) + COUNT(missing))];
    unsigned short n = 0;
#define ADD(...) code[n++] = (struct sock_filter)__VA_ARGS__
    ADD(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)));
    ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
    ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
    ADD(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
    for (size_t i = 0; i < COUNT(watched); i++) {
        ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)watched[i].number, 0, 1));
        ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE));
    }
    for (size_t i = 0; i < COUNT(missing); i++) {
        ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)missing[i], 0, 1));
        ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS));
    }
    ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    struct sock_fprog program = {n, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        fail("no system calls can be filtered here");
}

static void observe(pid_t root, int *status_of_root) {
    int status;
    pid_t thread;
    while ((thread = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
        if (thread < 0)
            continue;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            end(thread, 0);
            if (thread == root)
                *status_of_root = status;
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16, deliver = 0, how = PTRACE_CONT;
        unsigned long message = 0;
        ptrace(PTRACE_GETEVENTMSG, thread, NULL, &message);
        if (event == PTRACE_EVENT_SECCOMP) {
            how = begin(thread) ? PTRACE_SYSCALL : PTRACE_CONT;
        } else if (event == PTRACE_EVENT_EXEC) {
            started(thread);
        } else if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK ||
                   event == PTRACE_EVENT_CLONE) {
            int is_process = process_of((pid_t)message) == (pid_t)message;
            begin_line(thread, is_process ? "process" : "thread");
            if (is_process)
                fprintf(out, ", \"child\": %lu", message);
            else
                fprintf(out, ", \"threads\": %d", status_of(thread, "Threads: %d", 0));
            end_line();
        } else if (event == PTRACE_EVENT_STOP) {
            if (signal != SIGTRAP)  // all of the process is to stop
                how = PTRACE_LISTEN;
        } else if (signal == (SIGTRAP | 0x80)) {
            end(thread, 1);
        } else {
            deliver = signal;
        }
        ptrace((enum __ptrace_request)how, thread, NULL, deliver);
    }
}

int main(int count, char **arguments) {
    if (count < 3) {
        fputs("trace OUT PROGRAM ARGUMENT...\n", stderr);
        return 2;
    }
    int ready[2], status = CANNOT << 8;
    char byte;
    if (!(out = fopen(arguments[1], "we")))
        fail(arguments[1]);
    if (pipe2(ready, O_CLOEXEC))
        fail("pipe");
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        close(ready[1]);
        if (read(ready[0], &byte, 1) != 1)
            _exit(CANNOT);
        filter();
        execvp(arguments[2], arguments + 2);
        fail(arguments[2]);
    }
    long options = PTRACE_O_EXITKILL | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD |
                   PTRACE_O_TRACEEXEC | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                   PTRACE_O_TRACECLONE;
    if (ptrace(PTRACE_SEIZE, child, NULL, options)) {
        int reason = errno;
        kill(child, SIGKILL);
        errno = reason;
        fail("no process can be observed here");
    }
    close(ready[0]);
    if (write(ready[1], "!", 1) != 1)
        fail("pipe");
    close(ready[1]);
    observe(child, &status);
    fclose(out);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
