/* Kills the process, or lets the disk be full, at the n-th call that writes below a folder.

   Preloaded with LD_PRELOAD; armed by fault_arm(folder, n, kind), from when on calls are counted. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, KILL = 1, FULL = 2 };

static char folder[PATH_MAX];
static int kind;
static long target;
static atomic_long calls;

void fault_arm(const char *path, long n, int what) {
    strncpy(folder, path, sizeof folder - 1);
    target = n;
    kind = what;
    atomic_store(&calls, 0);
}

long fault_calls(void) { return atomic_load(&calls); }

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

static int is_below(const char *path) {
    char whole[2 * PATH_MAX];
    if (!folder[0]) return 0;
    if (path[0] != '/') {
        if (!getcwd(whole, PATH_MAX)) return 0;
        strcat(whole, "/");
        strncat(whole, path, PATH_MAX - 1);
        path = whole;
    }
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int is_file_below(int fd) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_below(path);
}

/* Whether this call, which writes below the folder, must fail; does not return where it kills. */
static int fails(void) {
    long n = atomic_fetch_add(&calls, 1) + 1;
    if (kind == KILL && n == target) kill(getpid(), SIGKILL);
    return kind == FULL && n >= target;
}

#define FULL_DISK(value) do { errno = ENOSPC; return value; } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    if (is_file_below(fd) && fails()) FULL_DISK(-1);
    return REAL(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    if (is_file_below(fd) && fails()) FULL_DISK(-1);
    return REAL(writev)(fd, parts, n);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    if (is_file_below(fd) && fails()) FULL_DISK(-1);
    return REAL(pwrite)(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    if (is_file_below(fd) && fails()) FULL_DISK(-1);
    return REAL(pwrite64)(fd, data, size, at);
}

size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    if (is_file_below(fileno(file)) && fails()) FULL_DISK(0);
    return REAL(fwrite)(data, size, n, file);
}

int ftruncate(int fd, off_t size) {
    if (is_file_below(fd) && fails()) FULL_DISK(-1);
    return REAL(ftruncate)(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    if (is_file_below(fd) && fails()) FULL_DISK(-1);
    return REAL(ftruncate64)(fd, size);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    if (is_file_below(to) && fails()) FULL_DISK(-1);
    return REAL(sendfile64)(to, from, at, size);
}

ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    if (is_file_below(to) && fails()) FULL_DISK(-1);
    return REAL(sendfile)(to, from, at, size);
}

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t size, unsigned flags) {
    if (is_file_below(to) && fails()) FULL_DISK(-1);
    return REAL(copy_file_range)(from, at, to, there, size, flags);
}

int mkdir(const char *path, mode_t mode) {
    if (is_below(path) && fails()) FULL_DISK(-1);
    return REAL(mkdir)(path, mode);
}

/* A full disk lets files be renamed and removed; a kill comes before these too. */
int rename(const char *from, const char *to) {
    if (is_below(to)) (void)fails();
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    if (is_below(path)) (void)fails();
    return REAL(unlink)(path);
}

int unlinkat(int fd, const char *path, int flags) {
    if (path[0] == '/' ? is_below(path) : is_file_below(fd)) (void)fails();
    return REAL(unlinkat)(fd, path, flags);
}

int rmdir(const char *path) {
    if (is_below(path)) (void)fails();
    return REAL(rmdir)(path);
}

#define OPEN(name)                                               \
    int name(const char *path, int flags, ...) {                 \
        va_list rest;                                            \
        va_start(rest, flags);                                   \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                            \
        if ((flags & O_CREAT) && is_below(path) && fails()) FULL_DISK(-1); \
        return REAL(name)(path, flags, mode);                    \
    }

OPEN(open)
OPEN(open64)
