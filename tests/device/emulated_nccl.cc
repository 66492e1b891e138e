/* A stand-in for NCCL between processes of one machine: messages are files in a folder that the unique id names, written and
 * awaited by the streams' threads (emulated_cuda.cc). As the library does without blocking: an abort ends the transfers of all that share
 * a split's resources, silently for the others; communicators come to be
 * while their asynchronous state is asked for, a dead rank shows as ncclRemoteError, what waits for it waits until the
 * communicator is aborted, and ranks of one device are refused unless their NCCL_HOSTID differ. */
#include <nccl.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "tests/device/streams.h"

struct state {
    std::string dir, name; /* name: of the communicator, alike on its ranks */
    int rank, size;
    std::vector<long> pids;
    std::shared_ptr<std::atomic<bool>>
        aborted; /* one for all that came of splits that share resources */
    std::atomic<bool> remote_gone{false};
    std::atomic<int> pending{0};
    bool ready = false, finalized = false;
    std::vector<uint64_t> sent, received; /* messages to and from each rank */
    int splits = 0;
    struct {
        bool asked = false, shared = false;
        int colour, key;
        ncclComm_t *out;
    } split;
};
struct ncclComm {
    std::shared_ptr<state> s;
    bool usable = true;
};

[[noreturn]] static void fault(const char *what)
{
    fprintf(stderr, "the stand-in for NCCL: %s\n", what);
    abort();
}

static state &of(ncclComm_t c)
{
    if (c == nullptr || !c->usable) {
        fault("a communicator is used after its end");
    }
    return *c->s;
}

/* --- files --- */

static bool read_file(const std::string &path, std::string *out)
{
    FILE *f = fopen(path.c_str(), "rb");
    char piece[65536];

    if (f == nullptr) {
        return false;
    }
    out->clear();
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) {
        out->append(piece, n);
    }
    fclose(f);
    return true;
}
static void write_file(const std::string &path, const void *data, size_t bytes)
{
    std::string part = path + ".part" + std::to_string(getpid());
    FILE *f = fopen(part.c_str(), "wb");

    if (f == nullptr || fwrite(data, 1, bytes, f) != bytes || fclose(f) != 0 ||
        rename(part.c_str(), path.c_str()) != 0) {
        fault("its folder cannot be written");
    }
}

static bool alive(long pid)
{
    std::string stat;
    if (kill((pid_t)pid, 0) != 0 || !read_file("/proc/" + std::to_string(pid) + "/stat", &stat)) {
        return false;
    }
    return stat.find(") Z") == std::string::npos;
}

/* --- beginning and end --- */

/* "pid|device and host" of a rank that has come. */
static void introduce(const state &s)
{
    const char *host = getenv("NCCL_HOSTID");
    cudaDeviceProp d;
    char card[160];

    cudaGetDeviceProperties(&d, 0);
    snprintf(card, sizeof card, "%ld|%d %s", (long)getpid(), d.uuid.bytes[15],
             host != nullptr ? host : "here");
    write_file(s.dir + "/" + s.name + ".rank" + std::to_string(s.rank), card, strlen(card));
}

/* Whether all have come; refuses two ranks of one device on one host. */
static ncclResult_t all_here(state &s)
{
    std::vector<std::string> cards((size_t)s.size);

    for (int r = 0; r < s.size; r++) {
        if (!read_file(s.dir + "/" + s.name + ".rank" + std::to_string(r), &cards[(size_t)r])) {
            return ncclInProgress;
        }
    }
    s.pids.clear();
    for (int r = 0; r < s.size; r++) {
        for (int k = 0; k < r; k++) {
            auto where = [](const std::string &c) { return c.substr(c.find('|')); };
            if (where(cards[(size_t)r]) == where(cards[(size_t)k])) {
                return ncclInvalidUsage; /* "Duplicate GPU detected" */
            }
        }
        s.pids.push_back(atol(cards[(size_t)r].c_str()));
    }
    s.ready = true;
    return ncclSuccess;
}

static ncclComm_t make(const std::string &dir, const std::string &name, int rank, int size,
                       std::shared_ptr<std::atomic<bool>> aborted)
{
    ncclComm_t c = new ncclComm;
    c->s = std::make_shared<state>();
    c->s->dir = dir;
    c->s->aborted = aborted;
    c->s->name = name;
    c->s->rank = rank;
    c->s->size = size;
    c->s->sent.resize((size_t)size);
    c->s->received.resize((size_t)size);
    introduce(*c->s);
    return c;
}

/* The part of a split that this rank is in, once every rank has told its colour. */
static ncclResult_t finish_split(state &s)
{
    std::vector<std::pair<std::pair<int, int>, int>> members;
    std::string base = s.dir + "/" + s.name + ".split" + std::to_string(s.splits), card;

    for (int r = 0; r < s.size; r++) {
        int colour = 0, key = 0;
        if (!read_file(base + "." + std::to_string(r), &card)) {
            return ncclInProgress;
        }
        sscanf(card.c_str(), "%d %d", &colour, &key);
        if (colour == s.split.colour) {
            members.push_back({{key, r}, r});
        }
    }
    std::sort(members.begin(), members.end());
    *s.split.out = nullptr;
    for (size_t i = 0; i < members.size() && s.split.colour != NCCL_SPLIT_NOCOLOR; i++) {
        if (members[i].second == s.rank) {
            *s.split.out =
                make(s.dir,
                     s.name + "-" + std::to_string(s.splits) + "c" + std::to_string(s.split.colour),
                     (int)i, (int)members.size(),
                     s.split.shared ? s.aborted : std::make_shared<std::atomic<bool>>(false));
        }
    }
    s.split.asked = false;
    s.splits++;
    return ncclSuccess;
}

extern "C" {

const char *ncclGetErrorString(ncclResult_t r)
{
    static thread_local char text[64];
    snprintf(text, sizeof text, "result %d of the stand-in", (int)r);
    return text;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    const char *tmp = getenv("TMPDIR");
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "%s/cvx-nccl-XXXXXX",
             tmp != nullptr && strlen(tmp) < 80 ? tmp : "/tmp");
    return mkdtemp(id->internal) != nullptr ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    if (config->blocking != 0) {
        fault("a communicator that blocks");
    }
    *out = make(id.internal, "world", rank, size, std::make_shared<std::atomic<bool>>(false));
    return ncclInProgress;
}

ncclResult_t ncclCommSplit(ncclComm_t c, int colour, int key, ncclComm_t *out, ncclConfig_t *config)
{
    state &s = of(c);
    char card[32];

    if (!s.ready || s.split.asked) {
        fault("a split of a communicator that is not ready");
    }
    s.split.asked = true;
    s.split.shared = config->splitShare == 1;
    s.split.colour = colour;
    s.split.key = key;
    s.split.out = out;
    snprintf(card, sizeof card, "%d %d", colour, key);
    write_file(s.dir + "/" + s.name + ".split" + std::to_string(s.splits) + "." +
                   std::to_string(s.rank),
               card, strlen(card));
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *out)
{
    state &s = of(c);

    *out = !s.ready        ? all_here(s)
           : s.split.asked ? finish_split(s)
           : s.remote_gone ? ncclRemoteError
           : s.finalized   ? (s.pending > 0 ? ncclInProgress : ncclSuccess)
                           : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t c)
{
    of(c).finalized = true;
    return ncclInProgress;
}

static void end(ncclComm_t c)
{
    state &s = of(c);
    if (s.name == "world" && s.rank == 0 &&
        !*s.aborted) { /* the folder goes with the last communicator */
        std::string dir = s.dir;
        usleep(200000); /* slower ranks still ask whether all were there */
        DIR *d = opendir(dir.c_str());
        for (struct dirent *e; d != nullptr && (e = readdir(d)) != nullptr;) {
            unlink((dir + "/" + e->d_name).c_str());
        }
        if (d != nullptr) {
            closedir(d);
        }
        rmdir(dir.c_str());
    }
    c->s.reset();
    delete c;
}

ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    if (!of(c).finalized || of(c).pending > 0) {
        fault("a communicator is destroyed before its end has come");
    }
    end(c);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t c)
{
    *of(c).aborted = true;
    end(c);
    return ncclSuccess;
}

/* --- transfers --- */

struct transfer {
    bool out;
    int peer;
    void *data;
    size_t bytes;
};
struct grouped {
    std::shared_ptr<state> s;
    cudaStream_t stream;
    std::vector<transfer> all;
};
static thread_local int depth;
static thread_local std::vector<grouped> group;

static std::string message(const state &s, int from, int to, uint64_t n)
{
    return s.dir + "/" + s.name + ".m" + std::to_string(from) + "." + std::to_string(to) + "." +
           std::to_string(n);
}

/* In the stream's thread. */
static void move(state &s, const std::vector<transfer> &all)
{
    std::string data;

    for (const transfer &t : all) {
        if (t.out && !*s.aborted) {
            write_file(message(s, s.rank, t.peer, s.sent[(size_t)t.peer]++), t.data, t.bytes);
        }
    }
    for (const transfer &t : all) {
        if (t.out) {
            continue;
        }
        std::string from = message(s, t.peer, s.rank, s.received[(size_t)t.peer]++);
        while (!read_file(from, &data) && !*s.aborted) {
            s.remote_gone = s.remote_gone || !alive(s.pids[(size_t)t.peer]);
            usleep(200);
        }
        if (*s.aborted) {
            break;
        }
        if (data.size() != t.bytes) {
            fault("a message of another length than its receive");
        }
        memcpy(t.data, data.data(), t.bytes);
        unlink(from.c_str());
    }
    s.pending--;
}

static ncclResult_t add(ncclComm_t c, cudaStream_t stream, const transfer &t)
{
    state &s = of(c);

    if (!s.ready || s.finalized || t.peer < 0 || t.peer >= s.size || depth == 0) {
        return ncclInvalidUsage;
    }
    device_must_own(t.data, t.bytes, false, "a transfer between ranks");
    if (group.empty() || group.back().s != c->s || group.back().stream != stream) {
        group.push_back({c->s, stream, {}});
    }
    group.back().all.push_back(t);
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void)
{
    depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    if (--depth > 0) {
        return ncclSuccess;
    }
    for (const grouped &g : group) {
        std::shared_ptr<state> s = g.s;
        std::vector<transfer> all = g.all;
        s->pending++;
        device_enqueue(g.stream, [=] { move(*s, all); });
    }
    group.clear();
    return ncclSuccess;
}

ncclResult_t ncclSend(const void *data, size_t n, ncclDataType_t, int peer, ncclComm_t c,
                      cudaStream_t stream)
{
    return add(c, stream, {true, peer, (void *)data, n});
}
ncclResult_t ncclRecv(void *data, size_t n, ncclDataType_t, int peer, ncclComm_t c,
                      cudaStream_t stream)
{
    return add(c, stream, {false, peer, data, n});
}

ncclResult_t ncclAllGather(const void *send, void *recv, size_t n, ncclDataType_t, ncclComm_t c,
                           cudaStream_t stream)
{
    state &s = of(c);
    char *mine = (char *)recv + (size_t)s.rank * n;

    if (send != mine) {
        cudaMemcpyAsync(mine, send, n, cudaMemcpyDeviceToDevice, stream);
    }
    ncclGroupStart();
    for (int r = 0; r < s.size; r++) {
        if (r != s.rank) {
            add(c, stream, {true, r, mine, n});
            add(c, stream, {false, r, (char *)recv + (size_t)r * n, n});
        }
    }
    return ncclGroupEnd();
}

ncclResult_t ncclBroadcast(const void *send, void *recv, size_t n, ncclDataType_t, int root,
                           ncclComm_t c, cudaStream_t stream)
{
    state &s = of(c);

    ncclGroupStart();
    for (int r = 0; r < s.size; r++) {
        if (s.rank == root && r != root) {
            add(c, stream, {true, r, (void *)send, n});
        } else if (s.rank != root && r == root) {
            add(c, stream, {false, r, recv, n});
        }
    }
    return ncclGroupEnd();
}

} /* extern "C" */
