"""A cluster's parts as child processes, each of which a test may kill and start again: Redis, coordinators, pools of ranks."""
import os
import signal
import socket
import subprocess
import time
import traceback

from service import Service, cvx, say, work

build = os.path.dirname(cvx)
environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1",
               "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none",
               "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
               "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OMP_WAIT_POLICY": "passive"}


def descendants(pid):
    """Process ids below one, itself left out."""
    found, todo = [], [pid]
    while todo:
        try:
            with open(f"/proc/{todo[-1]}/task/{todo.pop()}/children") as f:
                todo += (more := [int(x) for x in f.read().split()])
            found += more
        except OSError:
            pass
    return found


def catches(pid, number):
    """Whether a process has a handler for a signal."""
    try:
        with open(f"/proc/{pid}/status") as f:
            return any(line.startswith("SigCgt:") and int(line.split()[1], 16) >> (number - 1) & 1 for line in f)
    except OSError:
        return False


def spent(pids):
    """Seconds of a processor that these have used."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as f:
            user, system = f.read().rsplit(")", 1)[1].split()[11:13]
            ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Cluster(Service):
    """Redis and one coordinator, always at the same port; requests go to it."""

    key = None

    def __init__(self, data, coordinator=(), appendonly=True):
        self.data, self.more = data, list(coordinator)
        os.makedirs(f"{data}/redis", exist_ok=True)
        self.socket = f"{data}/redis.sock"
        self.redis_url = f"unix://{self.socket}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.pools, self.redis, self.process = {}, None, None
        self.log = open(f"{data}/log", "ab")
        self.start_redis(appendonly)
        self.process = self.start_coordinator(self.port)

    def start_redis(self, appendonly=True):
        more = ["--appendonly", "yes", "--appendfsync", "always"] if appendonly else []
        self.redis = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir",
                                       f"{self.data}/redis", *more], stdout=self.log, stderr=self.log)
        for _ in range(600):
            if self.cli("ping") == "PONG":
                return
            time.sleep(0.05)
        say("Redis starts", False, open(f"{self.data}/log").read()[-2000:])

    def cli(self, *args):
        run = subprocess.run(["redis-cli", "-s", self.socket, *args], capture_output=True, text=True)
        return run.stdout.strip()

    def start_coordinator(self, port):
        return subprocess.Popen([f"{build}/cvx-coordinator", "--redis", self.redis_url, "--model", "models/shapes", "--data-dir",
                                 f"{self.data}/data", "--port", str(port), *self.more],
                                stdout=self.log, stderr=self.log)

    def start_pool(self, name, ranks, *more, fault=None):
        """fault: what CVX_FAULT shall be for it (base/fault.h)."""
        mpi = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
        self.pools[name] = subprocess.Popen(
            [*mpi, f"{build}/cvx-rank", "--pool", "--pool-name", name, "--redis", self.redis_url, "--model", "models/shapes",
             "--clip-model", "models/shapes-clip", "--threads", "1", *more],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL,
            env={**environment, "CVX_FAULT": fault} if fault else environment)
        return self.pools[name]

    def ranks(self, name):
        """The processes that compute."""
        pool = self.pools[name]
        below = descendants(pool.pid)
        return below if below else [pool.pid]

    def end_pool(self, name, how=signal.SIGUSR1):
        """A drain where it is asked, once the ranks listen for that; else nothing of it is left."""
        for _ in range(600 if how == signal.SIGUSR1 else 0):
            if all(catches(pid, how) for pid in self.ranks(name)):
                break
            time.sleep(0.05)
        pool = self.pools.pop(name)
        for pid in (self.ranks_of(pool) if how == signal.SIGKILL else []) + [pool.pid]:
            try:
                os.kill(pid, how)
            except ProcessLookupError:
                pass
        return pool.wait(120)

    def ranks_of(self, pool):
        return descendants(pool.pid)

    def call(self, method, path, body=None, headers=None, raw=False):
        headers = dict(headers or {})
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return super().call(method, path, body, headers, raw)

    def wait_pools(self, n, seconds=60):
        end = time.time() + seconds
        while time.time() < end:
            try:
                _, got, _ = self.call("GET", "/v1/pools")
                if len(got.get("data", [])) == n:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        say(f"{n} pools", False, self.tail())

    def tail(self):
        with open(f"{self.data}/log", errors="replace") as f:
            return f.read()[-3000:]

    def close(self):
        for name in list(self.pools):
            self.end_pool(name, signal.SIGKILL)
        for child in self.process, self.redis:
            if child and child.poll() is None:
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(20)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


def drive(cluster, *parts):
    """Runs the parts of a test; nothing is left running, whatever happens."""
    try:
        for part in parts:
            part(cluster)
    except Exception:
        say("the test itself", False, traceback.format_exc() + cluster.tail())
    finally:
        cluster.close()


def plain(prompt, steps, name, *more):
    """The bytes that `cvx generate` makes."""
    path = f"{work}/plain-{name}.mp4"
    subprocess.run([cvx, "generate", "--model", "models/shapes", "--prompt", prompt, "--num-inference-steps", str(steps),
                    "--output", path, "--quiet", *more], check=True, stdin=subprocess.DEVNULL)
    with open(path, "rb") as f:
        return f.read()
