#!/usr/bin/env python3
"""Mixed traffic through the official client, until stdin closes; then one JSON report on stdout.

Half of the clients stream. No request is repeated (max_retries=0): what fails is counted, with its time, its kind and
whether the answer had begun. Bounded by --max-seconds whatever happens.
Says "answered" on stderr once there are as many answers as clients.
"""

import argparse
import asyncio
import json
import os
import sys
import time

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI


class Report:
    """What happened, in seconds since the start."""

    def __init__(self, clients):
        self.clients = clients
        self.started = time.monotonic()
        self.succeeded = 0
        self.failures = []
        self.latencies = []
        self.last_success = 0.0
        self.longest_silence = 0.0

    def now(self):
        return time.monotonic() - self.started

    def success(self, began):
        now = self.now()
        self.succeeded += 1
        if self.succeeded == self.clients:
            print("answered", file=sys.stderr, flush=True)
        self.latencies.append(now - began)
        self.longest_silence = max(self.longest_silence, now - self.last_success)
        self.last_success = now

    def failure(self, error, began, had_begun, stream):
        status = error.status_code if isinstance(error, APIStatusError) else None
        self.failures.append(
            {
                "at": round(self.now(), 3),
                "after": round(self.now() - began, 3),
                "kind": type(error).__name__,
                "status": status,
                "stream": stream,
                "had_begun": had_begun,
                "message": str(error)[:300],
            }
        )

    def summary(self):
        ordered = sorted(self.latencies)
        at = lambda share: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3) if ordered else None
        return {
            "seconds": round(self.now(), 1),
            "succeeded": self.succeeded,
            "failed": len(self.failures),
            "cut_streams": sum(failure["had_begun"] for failure in self.failures),
            "longest_silence_seconds": round(max(self.longest_silence, self.now() - self.last_success), 3),
            "latency_seconds": {"p50": at(0.5), "p99": at(0.99), "max": at(1)},
            "failures": self.failures[:50],
        }


async def request(client, options, number, stream, report):
    began, had_begun = report.now(), False
    body = {
        "model": options.model,
        "messages": [{"role": "user", "content": f"Count to {number % 7 + 3}."}],
        "max_tokens": options.max_tokens,
        "temperature": 0,
    }
    try:
        if stream:
            finished = False
            async with await client.chat.completions.create(**body, stream=True) as chunks:
                async for chunk in chunks:
                    had_begun = True
                    finished |= any(choice.finish_reason for choice in chunk.choices)
            if not finished:
                raise RuntimeError("the stream ended without a finish_reason")
        else:
            answer = await client.chat.completions.create(**body)
            if not answer.choices[0].finish_reason:
                raise RuntimeError("an answer without a finish_reason")
        report.success(began)
    except (APIConnectionError, APIError, APITimeoutError, RuntimeError) as error:
        report.failure(error, began, had_begun, stream)
        await asyncio.sleep(0.1)  # a broken endpoint is not hammered


async def worker(index, options, stop, report):
    # A client of its own: a connection pool of its own, as independent users have.
    async with AsyncOpenAI(
        base_url=options.base_url, api_key=options.api_key, max_retries=0, timeout=options.timeout
    ) as client:
        number = index
        while not stop.is_set():
            await request(client, options, number, (index + number) % 2 == 0, report)
            number += 1
            if options.pause:
                await asyncio.sleep(options.pause)


async def wait_for_end(stop, seconds):
    loop = asyncio.get_running_loop()
    closed = loop.run_in_executor(None, sys.stdin.read)
    done, _ = await asyncio.wait({closed}, timeout=seconds)
    if not done:
        print(f"stopped after {seconds} s", file=sys.stderr)
    stop.set()


async def main(options):
    stop, report = asyncio.Event(), Report(options.clients)
    workers = [asyncio.create_task(worker(index, options, stop, report)) for index in range(options.clients)]
    await wait_for_end(stop, options.max_seconds)
    await asyncio.gather(*workers)
    print(json.dumps(report.summary()), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True, help="with /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two requests of a client")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=120)
    parser.add_argument("--max-seconds", type=float, default=600)
    asyncio.run(main(parser.parse_args()))
    sys.stdout.flush()
    # The thread that waits for stdin may still wait: nothing of it is wanted any more.
    os._exit(0)
