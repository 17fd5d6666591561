// SPDX-License-Identifier: Apache-2.0 OR MIT
// What a start cannot do without, and nothing else: cgroups, namespaces, an overlay, the mounts, devices and masks that the runtime
// specification asks for, pivot_root, exec; then the removal of what was made. No files are read, nothing is checked.
//   bare LOWER PLACE PROGRAM
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define CGROUPS "/sys/fs/cgroup"
#define OWN "stos-bench-bare"
#define TRY(call) do { if ((call) < 0) { perror(#call); exit(1); } } while (0)

static char groups[32][300];
static int count, is_v2;

static void find_groups(void) {
    is_v2 = access(CGROUPS "/cgroup.controllers", F_OK) == 0;
    if (is_v2) {
        snprintf(groups[count++], sizeof groups[0], CGROUPS "/" OWN);
        return;
    }
    DIR *all = opendir(CGROUPS);
    for (struct dirent *entry; all && (entry = readdir(all)) && count < 32;) {
        char tasks[600];
        // A name that is a symlink is another one's.
        snprintf(tasks, sizeof tasks, CGROUPS "/%s/tasks", entry->d_name);
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.' && access(tasks, F_OK) == 0)
            snprintf(groups[count++], sizeof groups[0], CGROUPS "/%.200s/" OWN, entry->d_name);
    }
    if (all) closedir(all);
}

// A cpuset's group takes no process before it has processors and memory.
static void copy_file(const char *directory, const char *name) {
    char from[600], to[600], text[256];
    snprintf(from, sizeof from, "%s/../%s", directory, name);
    snprintf(to, sizeof to, "%s/%s", directory, name);
    int file = open(from, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    ssize_t length = read(file, text, sizeof text);
    close(file);
    file = open(to, O_WRONLY | O_CLOEXEC);
    if (file >= 0 && length > 0) TRY(write(file, text, length));
    if (file >= 0) close(file);
}

static void mask(const char *path) {
    struct stat found;
    if (stat(path, &found)) return;
    if (S_ISDIR(found.st_mode))
        TRY(mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=0k"));
    else
        TRY(mount("/dev/null", path, NULL, MS_BIND, NULL));
}

static void read_only(const char *path) {
    if (access(path, F_OK)) return;
    TRY(mount(path, path, NULL, MS_BIND | MS_REC, NULL));
    TRY(mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
}

static void start(const char *root, const char *options, const char *program) {
    for (int i = 0; !is_v2 && i < count; i++) {
        char tasks[400];
        snprintf(tasks, sizeof tasks, "%s/tasks", groups[i]);
        int file = open(tasks, O_WRONLY | O_CLOEXEC);
        if (file >= 0) TRY(write(file, "0", 1));
        if (file >= 0) close(file);
    }
    TRY(unshare(CLONE_NEWCGROUP));
    TRY(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    TRY(mount("overlay", root, "overlay", 0, options));
    TRY(chdir(root));
    int quiet = MS_NOSUID | MS_NOEXEC;
    TRY(mount("proc", "proc", "proc", quiet | MS_NODEV, NULL));
    TRY(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
    TRY(mkdir("dev/pts", 0755));
    TRY(mkdir("dev/shm", 0755));
    TRY(mkdir("dev/mqueue", 0755));
    TRY(mount("devpts", "dev/pts", "devpts", quiet, "newinstance,ptmxmode=0666,mode=0620"));
    TRY(mount("shm", "dev/shm", "tmpfs", quiet | MS_NODEV, "mode=1777,size=65536k"));
    TRY(mount("mqueue", "dev/mqueue", "mqueue", quiet | MS_NODEV, NULL));
    TRY(mount("sysfs", "sys", "sysfs", quiet | MS_NODEV | MS_RDONLY, NULL));
    if (is_v2) TRY(mount("cgroup", "sys/fs/cgroup", "cgroup2", quiet | MS_NODEV | MS_RDONLY, NULL));
    static const struct { const char *name; int minor; } devices[] = {
        {"dev/null", 3}, {"dev/zero", 5}, {"dev/full", 7}, {"dev/random", 8}, {"dev/urandom", 9},
    };
    umask(0);
    for (int i = 0; i < 5; i++) TRY(mknod(devices[i].name, S_IFCHR | 0666, makedev(1, devices[i].minor)));
    TRY(mknod("dev/tty", S_IFCHR | 0666, makedev(5, 0)));
    TRY(symlink("pts/ptmx", "dev/ptmx"));
    TRY(symlink("/proc/self/fd", "dev/fd"));
    TRY(symlink("/proc/self/fd/0", "dev/stdin"));
    TRY(symlink("/proc/self/fd/1", "dev/stdout"));
    TRY(symlink("/proc/self/fd/2", "dev/stderr"));
    TRY(syscall(SYS_pivot_root, ".", "."));
    TRY(umount2(".", MNT_DETACH));
    TRY(chdir("/"));
    static const char *const masked[] = {"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
                                         "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"};
    static const char *const kept[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    for (int i = 0; i < 5; i++) read_only(kept[i]);
    for (int i = 0; i < 9; i++) mask(masked[i]);
    TRY(sethostname("bare", 4));
    execl(program, program, (char *)NULL);
    perror(program);
    exit(127);
}

static int removed(const char *path, const struct stat *found, int kind, struct FTW *at) {
    (void)found, (void)kind, (void)at;
    return remove(path);
}

int main(int arguments, char **words) {
    if (arguments != 4) return 2;
    char upper[500], work[500], root[500], options[2000];
    snprintf(upper, sizeof upper, "%s/upper", words[2]);
    snprintf(work, sizeof work, "%s/work", words[2]);
    snprintf(root, sizeof root, "%s/root", words[2]);
    TRY(mkdir(words[2], 0755));
    TRY(mkdir(upper, 0755));
    TRY(mkdir(work, 0755));
    TRY(mkdir(root, 0755));
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s,volatile", words[1], upper, work);
    find_groups();
    for (int i = 0; i < count; i++) {
        TRY(mkdir(groups[i], 0755));
        if (!is_v2) copy_file(groups[i], "cpuset.cpus"), copy_file(groups[i], "cpuset.mems");
    }
    struct clone_args how = {.exit_signal = SIGCHLD};
    how.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET;
    if (is_v2) {
        how.flags |= CLONE_INTO_CGROUP;
        int directory = open(groups[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        TRY(directory);
        how.cgroup = directory;
    }
    long child = syscall(SYS_clone3, &how, sizeof how);
    TRY(child);
    if (child == 0) start(root, options, words[3]);
    int status;
    TRY(waitpid(child, &status, 0));
    for (int i = 0; i < count; i++) TRY(rmdir(groups[i]));
    TRY(nftw(words[2], removed, 16, FTW_DEPTH | FTW_PHYS));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
