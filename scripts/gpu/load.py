#!/usr/bin/env python3
"""Sends a server random completions from many clients for some time, of which some leave early: load.py URL SECONDS CLIENTS
PID. Fails if an answer has an error, if nothing comes for half a minute, if a block of the KV cache is left behind, or if
memory grows. Needs nothing but Python."""

import http.client
import json
import random
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

SILENCE_SECONDS = 30
GROWTH_BYTES = 64 << 20


def main():
    url, seconds, clients, pid = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    server = urllib.parse.urlparse(url).netloc
    model = json.load(urllib.request.urlopen(url + "/v1/models"))["data"][0]["id"]
    end, state = time.monotonic() + seconds, State()
    threads = [threading.Thread(target=client, args=(server, model, number, end, state)) for number in range(clients)]
    for thread in threads:
        thread.start()
    memory = []
    print(f"{'s':>5} {'finished':>9} {'left':>6} {'tokens':>9} {'tok/s':>7} {'free blocks':>12} {'host MiB':>9} {'GPU MiB':>8}")
    start = last = time.monotonic()
    tokens = 0
    while any(thread.is_alive() for thread in threads) and not state.errors:
        for thread in threads:
            thread.join(max(0.0, min(1.0, last + seconds / 12 - time.monotonic())))
        now = time.monotonic()
        if now < last + seconds / 12 and any(thread.is_alive() for thread in threads):
            continue
        rate, tokens, last = (state.tokens - tokens) / (now - last), state.tokens, now
        sizes = (resident_bytes(pid), gpu_bytes(pid))
        # While the last finish, steps of fewer sequences are recorded, each once.
        if now < end:
            memory.append(sizes)
        host, gpu = (part >> 20 for part in sizes)
        print(f"{now - start:5.0f} {state.finished:9} {state.left:6} {tokens:9} {rate:7.0f} "
              f"{free_blocks(url)[0]:12.0f} {host:9} {gpu:8}", flush=True)
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + SILENCE_SECONDS
    while free_blocks(url)[0] < free_blocks(url)[1] and time.monotonic() < deadline:
        time.sleep(0.1)
    free, blocks = free_blocks(url)
    # What is set up at first is there after a third.
    settled = memory[len(memory) // 3:]
    growth = [max(sizes) - sizes[0] for sizes in zip(*settled)] if settled else [0, 0]
    print(f"{len(state.errors)} errors, {blocks - free:.0f} blocks left behind, memory grew by "
          f"{growth[0] / 2**20:.1f} MiB (host) and {growth[1] / 2**20:.1f} MiB (GPU) after a third of the time")
    for error in state.errors[:5]:
        print("error:", error)
    sys.exit(bool(state.errors or free != blocks or max(growth) > GROWTH_BYTES))


class State:
    def __init__(self):
        self.finished, self.left, self.tokens, self.errors, self.lock = 0, 0, 0, [], threading.Lock()


def client(server, model, number, end, state):
    choice = random.Random(number)
    while time.monotonic() < end and not state.errors:
        try:
            request(server, model, choice, state)
        except Exception as error:  # whatever it is, it is what this looks for
            state.errors.append(f"{type(error).__name__}: {error}")


def request(server, model, choice, state):
    length = choice.choice([16, 60, 200, 700, 1500])
    wanted = choice.randint(1, 300)
    leaves_after = choice.randint(0, wanted) if choice.random() < 0.2 else None
    sampling = dict(temperature=0.0) if choice.random() < 0.5 else dict(temperature=0.9, top_p=0.95, seed=choice.randint(0, 99))
    body = dict(model=model, prompt=[choice.randint(32, 255) for _ in range(length)], max_tokens=wanted, stream=True,
                ignore_eos=True, **sampling)
    connection = http.client.HTTPConnection(server, timeout=SILENCE_SECONDS)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {answer.read(300)!r}")
        pieces, done = 0, False
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                done = True
                break
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(str(chunk["error"]))
            pieces += 1
            with state.lock:
                state.tokens += 1
            if leaves_after is not None and pieces >= leaves_after:
                break
        with state.lock:
            if done:
                state.finished += 1
            elif leaves_after is not None:
                state.left += 1
            else:
                raise RuntimeError(f"the answer broke off after {pieces} pieces")
    finally:
        connection.close()


def free_blocks(url):
    text = urllib.request.urlopen(url + "/metrics", timeout=SILENCE_SECONDS).read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return float(values["ferrum_engine_kv_blocks_free"]), float(values["ferrum_engine_kv_blocks"])


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def gpu_bytes(pid):
    """Of the process, or of all on the first GPU where the driver does not tell them apart."""
    for line in nvidia_smi("--query-compute-apps=pid,used_memory"):
        process, _, used = line.partition(", ")
        if process == str(pid) and used.isdigit():
            return int(used) << 20
    return int(nvidia_smi("--query-gpu=memory.used")[0]) << 20


def nvidia_smi(query):
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


main()
