// SPDX-License-Identifier: Apache-2.0 OR MIT
// What a process may do where it runs, a line for each thing: system calls by number and by meaning, capabilities, paths of the kernel,
// devices. The lines of a podman container are recorded by `cargo xtask confinement`; tests compare those of ours with them.
//
// Every call is made by a child of its own, with arguments that no call can do anything with; it may end the child or block it.
// Only how it fails counts: EPERM and ENOSYS are what a filter answers, anything else has reached the kernel.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define LAST 470
#define X32 0x40000000L
#define PATIENCE 300
#define TRIES 200

enum abi { NATIVE, I386, X32_ABI };
static const char *const names[] = {"x86_64", "i386", "x32"};

// In line, for a child of vfork(2) runs on this very stack.
static inline long call64(long number, const long *a)
{
    register long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

// Five arguments are enough to fail.
static inline long call32(long number, const long *a)
{
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"((int)number), "b"((int)a[0]), "c"((int)a[1]), "d"((int)a[2]), "S"((int)a[3]), "D"((int)a[4])
                     : "r8", "r9", "r10", "r11", "memory");
    return result;
}

static const char *answer(long result, int is_meant)
{
    if (result == -EPERM)
        return "denied EPERM";
    if (result == -ENOSYS)
        return "denied ENOSYS";
    // What useless arguments get from any kernel is an answer to those that mean something.
    if (result == -EACCES && is_meant)
        return "denied EACCES";
    return result == -EINVAL && is_meant ? "denied EINVAL" : "passes";
}

// Whether a process may still come to its call, or is in it and about to come back: it waits for a processor or for a disk.
static int is_busy(pid_t process)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)process);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    const char *end = strrchr(text, ')');
    return end && (!strncmp(end, ") R", 3) || !strncmp(end, ") D", 3));
}

// Makes one call in a child and tells how it went.
static void attempt(enum abi abi, long number, const long *arguments, int is_meant)
{
    int results[2];
    fflush(stdout);
    if (pipe2(results, O_CLOEXEC) != 0)
        exit(2);
    pid_t child = fork();
    if (child == 0) {
        static const long none[6];
        long own = call64(SYS_getpid, none);
        long result = abi == I386 ? call32(number, arguments) : call64(abi == X32_ABI ? number | X32 : number, arguments);
        if (call64(SYS_getpid, none) == own)
            (void)!write(results[1], &result, sizeof result);
        call64(SYS_exit_group, none);
    }
    close(results[1]);
    long result;
    struct pollfd end = {.fd = results[0], .events = POLLIN};
    int is_there = poll(&end, 1, PATIENCE) == 1;
    for (int tries = 0; !is_there && tries < TRIES && is_busy(child); tries++)
        is_there = poll(&end, 1, PATIENCE) == 1;
    if (is_there && read(results[0], &result, sizeof result) == sizeof result) {
        puts(answer(result, is_meant));
    } else {
        int status = 0;
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        child = 0;
        puts(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS ? "killed" : "passes");
    }
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    close(results[0]);
}

static void calls_by_number(void)
{
    static const long useless[6] = {-1, -1, -1, -1, -1, -1};
    for (int abi = NATIVE; abi <= X32_ABI; abi++)
        for (long number = 0; number <= LAST; number++) {
            printf("call %s %ld ", names[abi], number);
            attempt(abi, number, useless, 0);
        }
}

static const char path_root[] = "/", type_tmpfs[] = "tmpfs", type_user[] = "user", some[] = "x";
static long zeros[32];
#define P(pointer) ((long)(pointer))

// Calls whose arguments a filter looks at, or that mean something harmless.
static const struct {
    const char *name;
    long number, arguments[6];
} meant[] = {
    {"personality-linux", SYS_personality, {0}},
    {"personality-linux32", SYS_personality, {8}},
    {"personality-uname26", SYS_personality, {0x20000}},
    {"personality-linux32-uname26", SYS_personality, {0x20008}},
    {"personality-query", SYS_personality, {0xffffffff}},
    {"personality-no-randomize", SYS_personality, {0x40000}},
    {"personality-read-implies-exec", SYS_personality, {0x400000}},
    {"socket-unix", SYS_socket, {1, 1, 0}},
    {"socket-inet", SYS_socket, {2, 1, 0}},
    {"socket-raw", SYS_socket, {2, 3, 1}},
    {"socket-packet", SYS_socket, {17, 3, 768}},
    {"socket-netlink-route", SYS_socket, {16, 3, 0}},
    {"socket-netlink-audit", SYS_socket, {16, 3, 9}},
    {"socket-vsock", SYS_socket, {40, 1, 0}},
    {"socket-alg", SYS_socket, {38, 5, 0}},
    {"clone-newuser", SYS_clone, {CLONE_NEWUSER | SIGCHLD}},
    {"clone-newns", SYS_clone, {CLONE_NEWNS | SIGCHLD}},
    {"unshare-newuser", SYS_unshare, {CLONE_NEWUSER}},
    {"unshare-newns", SYS_unshare, {CLONE_NEWNS}},
    {"unshare-newnet", SYS_unshare, {CLONE_NEWNET}},
    {"unshare-newpid", SYS_unshare, {CLONE_NEWPID}},
    {"unshare-newcgroup", SYS_unshare, {CLONE_NEWCGROUP}},
    {"mount-tmpfs", SYS_mount, {P(type_tmpfs), P(path_root), P(type_tmpfs)}},
    {"fsopen-tmpfs", SYS_fsopen, {P(type_tmpfs)}},
    {"open-tree-clone", SYS_open_tree, {AT_FDCWD, P(path_root), 1}},
    {"chroot", SYS_chroot, {P(path_root)}},
    {"sethostname", SYS_sethostname, {P(some), 1}},
    {"setdomainname", SYS_setdomainname, {P(some), 1}},
    {"bpf-map", SYS_bpf, {0, P(zeros), 32}},
    {"perf-event", SYS_perf_event_open, {P(zeros), 0, -1, -1, 0}},
    {"add-key", SYS_add_key, {P(type_user), P(some), P(some), 1, -3}},
    {"request-key", SYS_request_key, {P(type_user), P(some), 0, 0}},
    {"keyctl-id", SYS_keyctl, {0, -3, 0}},
    {"io-uring", SYS_io_uring_setup, {1, P(zeros)}},
    {"userfaultfd", SYS_userfaultfd, {0}},
    {"ptrace-me", SYS_ptrace, {0}},
    {"kcmp", SYS_kcmp, {1, 1, 0}},
    {"iopl", SYS_iopl, {3}},
    {"ioperm", SYS_ioperm, {0x80, 1, 1}},
    {"syslog-size", SYS_syslog, {10}},
    {"syslog-read-all", SYS_syslog, {3, P(zeros), 16}},
    {"quotactl-sync", SYS_quotactl, {0x800001 << 8, 0, 0, 0}},
    {"sched-fifo", SYS_sched_setscheduler, {0, 1, P(zeros)}},
    {"priority-high", SYS_setpriority, {0, 0, -20}},
    {"mlockall", SYS_mlockall, {1}},
    {"process-read", SYS_process_vm_readv, {1, P(zeros), 0, P(zeros), 0}},
    {"kexec-load", SYS_kexec_load, {0, 0, P(zeros), 0}},
    {"swapon", SYS_swapon, {P(path_root), 0}},
    {"open-by-handle", SYS_open_by_handle_at, {AT_FDCWD, P(zeros), 0}},
    {"fanotify", SYS_fanotify_init, {0, 0}},
    {"vhangup", SYS_vhangup, {0}},
};

static void calls_by_meaning(void)
{
    for (size_t at = 0; at < sizeof meant / sizeof *meant; at++) {
        printf("meant %s ", meant[at].name);
        attempt(NATIVE, meant[at].number, meant[at].arguments, 1);
    }
}

static void status(void)
{
    char line[256];
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof line, file)) {
        char key[64], value[64];
        if (sscanf(line, "%63[^:]: %63s", key, value) == 2 &&
            (!strncmp(key, "Cap", 3) || !strcmp(key, "NoNewPrivs") || !strcmp(key, "Seccomp")))
            printf("status %s %s\n", key, value);
    }
}

// Whether a directory holds anything.
static int has_entries(const char *path)
{
    DIR *directory = opendir(path);
    int found = 0;
    for (struct dirent *entry; directory && !found && (entry = readdir(directory));)
        found = entry->d_name[0] != '.';
    if (directory)
        closedir(directory);
    return found;
}

// "hidden": nothing can be seen. "read-only": nothing can be changed. "open" else, as far as mounts and modes go.
static void look(const char *path)
{
    struct stat found;
    struct statvfs mount;
    const char *is = "open";
    if (stat(path, &found) != 0 || (S_ISCHR(found.st_mode) && found.st_rdev == makedev(1, 3)))
        is = "hidden";
    else if (S_ISDIR(found.st_mode) && !has_entries(path))
        is = "hidden";
    else if (statvfs(path, &mount) == 0 && (mount.f_flag & ST_RDONLY))
        is = "read-only";
    else if (!S_ISDIR(found.st_mode) && access(path, W_OK) != 0)
        is = "read-only";
    printf("path %s %s\n", path, is);
}

static int is_number(const char *text)
{
    return text[strspn(text, "0123456789")] == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

// Each entry of a directory but for processes.
static void look_into(const char *directory)
{
    struct dirent **entries;
    int count = scandir(directory, &entries, NULL, by_name);
    for (int at = 0; at < count; at++) {
        char path[512];
        const char *name = entries[at]->d_name;
        snprintf(path, sizeof path, "%s/%s", directory, name);
        if (name[0] != '.' && !is_number(name) && entries[at]->d_type != DT_LNK)
            look(path);
    }
}

static void paths(void)
{
    static const char *const deep[] = {
        "/proc/timer_stats", "/proc/latency_stats", "/proc/sched_debug", "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe", "/proc/sys/kernel/sysrq", "/proc/sys/vm/drop_caches", "/proc/sys/net/core/somaxconn",
        "/proc/bus/pci", "/sys/devices/virtual/powercap", "/sys/fs/selinux", "/sys/kernel/debug", "/sys/kernel/security",
        "/sys/kernel/uevent_helper", "/sys/module/kernel/parameters", "/sys/power/state", "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/devices/devices.allow",
    };
    look_into("/proc");
    look_into("/sys");
    look_into("/sys/fs");
    look_into("/sys/kernel");
    for (size_t at = 0; at < sizeof deep / sizeof *deep; at++)
        look(deep[at]);
}

static void nodes(const char *directory)
{
    struct dirent **entries;
    int count = scandir(directory, &entries, NULL, by_name);
    for (int at = 0; at < count; at++) {
        char path[512];
        struct stat found;
        snprintf(path, sizeof path, "%s/%s", directory, entries[at]->d_name);
        if (entries[at]->d_name[0] == '.' || lstat(path, &found) != 0)
            continue;
        if (S_ISDIR(found.st_mode) && strcmp(entries[at]->d_name, "pts"))
            nodes(path);
        else if (S_ISCHR(found.st_mode) || S_ISBLK(found.st_mode))
            printf("node %s %s%u:%u\n", path, S_ISCHR(found.st_mode) ? "c" : "b", major(found.st_rdev), minor(found.st_rdev));
    }
}

// Devices that are not there are made where that may be, and opened where that may be.
static void devices(void)
{
    static const struct {
        mode_t kind;
        unsigned major, minor;
    } devices[] = {
        {S_IFCHR, 1, 1}, {S_IFCHR, 1, 2}, {S_IFCHR, 1, 4}, {S_IFCHR, 1, 11}, {S_IFCHR, 4, 0}, {S_IFCHR, 5, 1},
        {S_IFCHR, 10, 200}, {S_IFCHR, 10, 229}, {S_IFCHR, 10, 232}, {S_IFCHR, 10, 237}, {S_IFBLK, 7, 0}, {S_IFBLK, 8, 0},
        {S_IFBLK, 253, 0}, {S_IFBLK, 254, 0},
    };
    nodes("/dev");
    for (size_t at = 0; at < sizeof devices / sizeof *devices; at++) {
        dev_t number = makedev(devices[at].major, devices[at].minor);
        int is_made = mknod("/probed-node", devices[at].kind | 0600, number) == 0;
        int fd = is_made ? open("/probed-node", O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
        int is_denied = fd < 0 && errno == EPERM;
        printf("device %s%u:%u %s\n", devices[at].kind == S_IFCHR ? "c" : "b", devices[at].major, devices[at].minor,
               is_denied ? "denied EPERM" : "passes");
        if (fd >= 0)
            close(fd);
        unlink("/probed-node");
    }
}

int main(void)
{
    status();
    devices();
    paths();
    calls_by_meaning();
    calls_by_number();
    return 0;
}
