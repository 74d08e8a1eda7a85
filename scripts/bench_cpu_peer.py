"""One measurement of llama.cpp in a process of its own: prefill, decode, resident memory, start. Prints JSON."""

import argparse
import json
import resource
import time


def resident_bytes():
    """Resident memory now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompt-tokens", type=int, required=True)
    parser.add_argument("--output-tokens", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--launched", type=float, required=True, help="time.monotonic() of the parent at the start")
    args = parser.parse_args()

    import numpy as np  # noqa: F401  counted in the baseline, as the binding needs it
    from llama_cpp import Llama, llama_get_logits_ith

    baseline = resident_bytes()
    started = time.perf_counter()
    llm = Llama(
        model_path=args.model,
        n_ctx=1024,
        n_batch=512,
        n_ubatch=512,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        verbose=False,
    )
    llm.eval(list(range(100, 132)))
    load_seconds = time.perf_counter() - started
    start_seconds = time.monotonic() - args.launched

    def greedy():
        logits = llama_get_logits_ith(llm.ctx, -1)
        return int(np.ctypeslib.as_array(logits, shape=(llm.n_vocab(),)).argmax())

    prefill, decode = [], []
    for repeat in range(args.repeats):
        prompt = [(7919 * (i + 1) * (repeat + 1)) % 40_000 + 100 for i in range(args.prompt_tokens)]
        llm.reset()
        begun = time.perf_counter()
        llm.eval(prompt)
        token = greedy()
        prefill.append(args.prompt_tokens / (time.perf_counter() - begun))
        begun = time.perf_counter()
        for _ in range(args.output_tokens):
            llm.eval([token])
            token = greedy()
        decode.append(args.output_tokens / (time.perf_counter() - begun))

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "prefill_tokens_per_second": prefill,
                "decode_tokens_per_second": decode,
                # The interpreter and its modules are not llama.cpp's: taken off in its favour.
                "resident_bytes": peak - baseline,
                "start_to_first_token_seconds": start_seconds,
                # The same from the call that loads the model, so without the interpreter's start.
                "load_to_first_token_seconds": load_seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
