#include "base/memory.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"

/* The number after `key` at the beginning of a line; 0 if there is none. */
static size_t read_size(const char *path, const char *key)
{
    char line[256];
    size_t v = 0, n = strlen(key);
    FILE *f = fopen(path, "re");

    if (f == NULL) {
        return 0;
    }
    while (fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, key, n) == 0 && sscanf(line + n, "%zu", &v) == 1) {
            break;
        }
    }
    fclose(f);
    return v;
}

/* Where a version of control groups keeps its files, and how it names what they hold. */
typedef struct hierarchy {
    const char *at, *limit, *used, *stat[2];
} hierarchy;

static const hierarchy version2 = {
    "/sys/fs/cgroup", "memory.max", "memory.current", {"inactive_file ", "active_file "}};
static const hierarchy version1 = {"/sys/fs/cgroup/memory",
                                   "memory.limit_in_bytes",
                                   "memory.usage_in_bytes",
                                   {"total_inactive_file ", "total_active_file "}};

/* A file of a group. */
static size_t value(const char *group, const char *file, const char *key)
{
    char path[2 * CVX_PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", group, file);

    return n < (int)sizeof path ? read_size(path, key) : 0;
}

static size_t in_group(const hierarchy *h, const char *group, size_t free)
{
    size_t limit = value(group, h->limit, ""), used = value(group, h->used, "");

    if (limit == 0) {
        return free;
    }
    for (int i = 0; i < 2; i++) {
        size_t file = value(group, "memory.stat", h->stat[i]);
        used -= file < used ? file : used;
    }
    size_t left = limit > used ? limit - used : 0;
    return left < free ? left : free;
}

/* A line of /proc/self/cgroup is "NUMBER:CONTROLLERS:PATH"; version 2's has no controllers. */
static const hierarchy *hierarchy_of(char *controllers)
{
    if (controllers[0] == 0) {
        return &version2;
    }
    for (char *rest = controllers, *c; (c = strsep(&rest, ",")) != NULL;) {
        if (strcmp(c, "memory") == 0) {
            return &version1;
        }
    }
    return NULL;
}

size_t cvx_memory_in_groups(const char *root, size_t free)
{
    char line[CVX_PATH_MAX], group[2 * CVX_PATH_MAX];

    snprintf(group, sizeof group, "%s/proc/self/cgroup", root);
    FILE *f = fopen(group, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        char *path = line;
        (void)strsep(&path, ":");
        char *controllers = path != NULL ? strsep(&path, ":") : NULL;
        const hierarchy *h = path != NULL ? hierarchy_of(controllers) : NULL;
        if (h == NULL) {
            continue;
        }
        path[strcspn(path, "\n")] = 0;
        for (bool more = true; more;) { /* a container may see only the groups above */
            snprintf(group, sizeof group, "%s%s%s", root, h->at, path);
            free = in_group(h, group, free);
            char *slash = strrchr(path, '/');
            more = slash != NULL;
            *(more ? slash : path) = 0;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return free;
}

size_t cvx_memory_available(void)
{
    return cvx_memory_in_groups("", read_size("/proc/meminfo", "MemAvailable:") << 10);
}

size_t cvx_memory_resident(void)
{
    return read_size("/proc/self/status", "VmRSS:") << 10;
}

size_t cvx_memory_peak(void)
{
    return read_size("/proc/self/status", "VmHWM:") << 10;
}
