/* What control groups leave of the machine's memory, from made-up files of both versions. */
#include "base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/file.h"

#define FREE ((size_t)100 << 30)

static char root[CVX_PATH_MAX];

static void put(const char *folder, const char *file, const char *text)
{
    char dir[CVX_PATH_MAX + 256], path[2 * CVX_PATH_MAX];

    snprintf(dir, sizeof dir, "%s%s", root, folder);
    assert_int_equal(cvx_mkdirs(dir), CVX_OK);
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void begin(const char *groups)
{
    char name[] = "/tmp/cvx-memory-XXXXXX";

    assert_non_null(mkdtemp(name));
    snprintf(root, sizeof root, "%s", name);
    put("/proc/self", "cgroup", groups);
}

static void end(void)
{
    char command[CVX_PATH_MAX + 16];

    snprintf(command, sizeof command, "rm -rf '%s'", root);
    assert_int_equal(system(command), 0);
}

/* A step of a Slurm job: the limit is the job's, two groups above the process's own. */
static void a_limit_above_counts(void **state)
{
    (void)state;
    begin("0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n");
    put("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7", "memory.max", "8000\n");
    put("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7", "memory.current", "3000\n");
    put("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0", "memory.max", "max\n");
    put("/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/user/task_0", "memory.max",
        "9000\n");
    assert_int_equal(cvx_memory_in_groups(root, FREE), 5000);
    assert_int_equal(cvx_memory_in_groups(root, 4000), 4000);
    end();
}

/* A container sees its own group as the root. */
static void the_root_counts(void **state)
{
    (void)state;
    begin("0::/\n");
    put("/sys/fs/cgroup", "memory.max", "8000\n");
    put("/sys/fs/cgroup", "memory.current", "8500\n");
    assert_int_equal(cvx_memory_in_groups(root, FREE), 0);
    put("/sys/fs/cgroup", "memory.stat",
        "anon 1500\nfile 7000\nactive_anon 1500\ninactive_file 4000\nactive_file 3000\n");
    assert_int_equal(cvx_memory_in_groups(root, FREE), 6500);
    end();
}

static void version_1_counts(void **state)
{
    (void)state;
    begin("5:cpu,cpuacct:/job\n4:hugetlb,memory:/slurm/uid_0/job_7\n0::/unified\n");
    put("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/slurm/uid_0", "memory.limit_in_bytes", "7000\n");
    put("/sys/fs/cgroup/memory/slurm/uid_0", "memory.usage_in_bytes", "2000\n");
    put("/sys/fs/cgroup/memory/slurm/uid_0", "memory.stat",
        "inactive_file 0\ntotal_inactive_file 500\ntotal_active_file 300\n");
    assert_int_equal(cvx_memory_in_groups(root, FREE), 5800);
    end();
}

static void without_groups_all_is_left(void **state)
{
    (void)state;
    begin("not a group\n\n::\n9:memory\n");
    assert_int_equal(cvx_memory_in_groups(root, FREE), FREE);
    end();
    assert_int_equal(cvx_memory_in_groups("/no/such/folder", FREE), FREE);
    assert_true(cvx_memory_available() > 0);
    assert_true(cvx_memory_resident() > 0 && cvx_memory_resident() <= cvx_memory_peak());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_limit_above_counts),
        cmocka_unit_test(the_root_counts),
        cmocka_unit_test(version_1_counts),
        cmocka_unit_test(without_groups_all_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
