"""Ferrum against llama.cpp: same GGUF file, same threads, alternating in one run. See bench-cpu.sh."""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

PROMPT_TOKENS = 512
OUTPUT_TOKENS = 128
HERE = pathlib.Path(__file__).parent
AIMS = {"prefill": 2.0, "decode": 1.2, "memory": 1.1, "start": 0.5, "load": 1.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ferrum", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--json", required=True, help="where the figures go")
    parser.add_argument("--rounds", type=int, default=5, help="alternations of the two; medians count")
    args = parser.parse_args()

    threads = sorted({1, os.cpu_count() or 1})
    report = {"cpu": cpu_name(), "model": pathlib.Path(args.model).name, "threads": {}}
    for count in threads:
        rounds = []
        for number in range(args.rounds):
            print(f"{count} threads, round {number + 1} of {args.rounds}", file=sys.stderr)
            rounds.append({"ferrum": measure_ferrum(args, count), "llama.cpp": measure_peer(args, count)})
        report["threads"][count] = rounds
        report.setdefault("concurrency_8_over_1", {})[count] = aggregate_ratio(args, count)
    pathlib.Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    print_table(report)


def measure_ferrum(args, threads):
    """Rates and memory from one process, start from another that makes one token."""
    command = [args.ferrum, "bench", args.model, "--json", "--concurrency=1", f"--threads={threads}"]
    command += [f"--prompt-tokens={PROMPT_TOKENS}", f"--output-tokens={OUTPUT_TOKENS}", "--requests=2"]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([*command, "--max-model-len=1024"], stdout=output, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"failed with {process.returncode}: {' '.join(command)}")
        output.seek(0)
        result = json.load(output)["results"][0]
    return {
        "prefill": result["prefill_tokens_per_second"],
        "decode": result["decode_tokens_per_second"],
        "memory": usage.ru_maxrss * 1024,
        "start": (start := time_to_first_token(args, threads)),
        # Against the peer without its interpreter's start: our whole process still counts.
        "load": start,
    }


def time_to_first_token(args, threads):
    """From the start of the process to the first byte of the answer."""
    command = [args.ferrum, "run", args.model, "Say hello.", "--max-tokens=1", "--temperature=0", f"--threads={threads}"]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    first = process.stdout.read(1)
    seconds = time.perf_counter() - begun
    process.stdout.read()
    if process.wait() or not first:
        sys.exit(f"no token from {' '.join(command)}")
    return seconds


def measure_peer(args, threads):
    """One process of llama.cpp; see bench_cpu_peer.py for what is counted."""
    command = [sys.executable, str(HERE / "bench_cpu_peer.py"), "--model", args.model, "--threads", str(threads)]
    command += ["--prompt-tokens", str(PROMPT_TOKENS), "--output-tokens", str(OUTPUT_TOKENS), "--repeats", "2"]
    command += ["--launched", str(time.monotonic())]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {
        "prefill": max(figures["prefill_tokens_per_second"]),
        "decode": max(figures["decode_tokens_per_second"]),
        "memory": figures["resident_bytes"],
        "start": figures["start_to_first_token_seconds"],
        "load": figures["load_to_first_token_seconds"],
    }


def aggregate_ratio(args, threads):
    """Tokens a second of 8 sequences that decode together, over those of one; short prompts, so that decode counts."""
    rates = {}
    for concurrency in (1, 8):
        command = [args.ferrum, "bench", args.model, "--json", f"--concurrency={concurrency}", f"--threads={threads}"]
        command += ["--prompt-tokens=64", "--output-tokens=128", f"--requests={3 * concurrency}"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        rates[concurrency] = json.loads(output)["results"][0]["decode_tokens_per_second"]
    return {"one": rates[1], "eight": rates[8], "ratio": rates[8] / rates[1]}


def print_table(report):
    """A row a figure: medians of both and their ratio."""
    print(f"\n{report['cpu']}; {report['model']}; prefill of {PROMPT_TOKENS}, decode of {OUTPUT_TOKENS}; medians\n")
    print("| threads | figure | ferrum | llama.cpp | ratio | aim |")
    print("| --- | --- | --- | --- | --- | --- |")
    units = {"prefill": (1, "tok/s"), "decode": (1, "tok/s"), "memory": (1e-6, "MB"), "start": (1000, "ms"), "load": (1000, "ms")}
    for threads, rounds in report["threads"].items():
        for figure, (scale, unit) in units.items():
            ours = statistics.median(one["ferrum"][figure] for one in rounds)
            peer = statistics.median(one["llama.cpp"][figure] for one in rounds)
            sign = ">=" if figure in ("prefill", "decode") else "<="
            cells = [f"{ours * scale:.0f} {unit}", f"{peer * scale:.0f} {unit}"]
            print(f"| {threads} | {figure} | {' | '.join(cells)} | {ours / peer:.2f} | {sign} {AIMS[figure]} |")
    for threads, rates in report["concurrency_8_over_1"].items():
        cells = f"{rates['eight']:.0f} tok/s | {rates['one']:.0f} tok/s (one)"
        print(f"| {threads} | decode of 8 sequences | {cells} | {rates['ratio']:.2f} | >= 4 |")


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(': ')[2]}, {os.cpu_count()} cores"
    return platform.processor()


if __name__ == "__main__":
    main()
