"""What a user of the official client sees."""

import base64
import json
import struct
import threading
import time
import urllib.request

import openai
import pytest

from conftest import CHAT_AND_EMBEDDING, SimulatedEngine, Stack, environment

FRANCE = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


def chat(client, **options):
    return client.chat.completions.create(
        **{"model": "smollm2", "messages": FRANCE, "temperature": 0, "max_tokens": 32, **options}
    )


def get(url):
    with urllib.request.urlopen(url, timeout=5) as response:
        return response.read().decode()


def test_a_chat_answers_with_usage(client):
    answer = chat(client)
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "smollm2"
    assert answer.usage.prompt_tokens == 42
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == 50


def test_a_stream_brings_the_same_text_piece_by_piece(client):
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == "The capital of France is Paris."
    assert len(pieces) > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 8


def test_a_repeated_prompt_comes_from_the_prefix_cache(client):
    text = "Count with me: " + ", ".join(str(i) for i in range(60))
    messages = [{"role": "user", "content": text}]
    first = chat(client, messages=messages, max_tokens=4)
    second = chat(client, messages=messages, max_tokens=4)
    assert second.choices[0].message.content == first.choices[0].message.content
    assert second.usage.prompt_tokens_details.cached_tokens > 0


def test_max_completion_tokens_ends_with_length(client):
    answer = chat(client, max_tokens=openai.omit, max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_a_stop_string_is_not_part_of_the_text(client):
    answer = chat(client, stop=[" Paris"])
    assert answer.choices[0].message.content == "The capital of France is"
    assert answer.choices[0].finish_reason == "stop"


def test_the_same_seed_gives_the_same_text(client):
    def ask(seed):
        return chat(client, temperature=1.0, seed=seed, max_tokens=24).choices[0].message.content

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(4)}) > 1


def test_n_choices_come_with_their_indexes(client):
    answer = chat(client, n=3, temperature=1.0, seed=1, max_tokens=6)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_logprobs_name_the_likeliest_tokens(client):
    content = chat(client, logprobs=True, top_logprobs=2, max_tokens=2).choices[0].logprobs.content
    assert len(content) == 2
    assert content[0].token == "The"
    assert content[0].logprob == pytest.approx(content[0].top_logprobs[0].logprob, abs=1e-5)


def test_text_completion_continues_a_prompt(client):
    answer = client.completions.create(model="smollm2", prompt="1, 2, 3, 4, 5, 6, 7,", max_tokens=9, temperature=0)
    assert answer.choices[0].text == " 8, 9, 10"


def test_embeddings_are_the_same_as_floats_and_as_base64(client):
    texts = ["The quick brown fox jumps over the lazy dog.", "Interest rates rose by a quarter point on Tuesday."]
    floats = client.embeddings.create(model="minilm", input=texts, encoding_format="float")
    assert [item.index for item in floats.data] == [0, 1]
    expected = [0.043934, 0.058934, 0.048178, 0.077548, 0.026744, -0.037630, -0.002605, -0.059943]
    assert floats.data[0].embedding[:8] == pytest.approx(expected, abs=1e-5)
    assert floats.usage.prompt_tokens > 12
    raw = client.embeddings.with_raw_response.create(model="minilm", input=texts, encoding_format="base64")
    decoded = base64.b64decode(raw.http_response.json()["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(decoded) // 4}f", decoded)) == pytest.approx(floats.data[0].embedding, abs=1e-6)
    default = client.embeddings.create(model="minilm", input=texts)
    assert default.data[1].embedding == pytest.approx(floats.data[1].embedding, abs=1e-6)


def test_embeddings_take_token_ids_and_dimensions(client):
    ids = [101, 1996, 4248, 2829, 4419, 14523, 2058, 1996, 13971, 3899, 1012, 102]
    by_ids = client.embeddings.create(model="minilm", input=ids, dimensions=16).data[0].embedding
    by_text = client.embeddings.create(
        model="minilm", input="The quick brown fox jumps over the lazy dog.", dimensions=16
    ).data[0].embedding
    assert len(by_ids) == 16
    assert by_ids == pytest.approx(by_text, abs=1e-6)
    assert sum(x * x for x in by_ids) == pytest.approx(1.0, abs=1e-5)


def test_both_models_are_listed(client):
    assert {model.id for model in client.models.list()} == {"smollm2", "minilm"}


def test_a_wrong_field_is_a_bad_request_that_names_it(client):
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, temperature=3)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, messages=[])
    assert refused.value.param == "messages"


def test_a_prompt_beyond_the_context_is_a_bad_request_with_its_code(client):
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, messages=[{"role": "user", "content": "word " * 3000}])
    assert refused.value.code == "context_length_exceeded"


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as refused:
        chat(client, model="gpt-17")
    assert refused.value.code == "model_not_found"
    assert "smollm2" in str(refused.value)


def test_a_body_over_the_limit_is_refused_with_413(client):
    with pytest.raises(openai.APIStatusError) as refused:
        chat(client, messages=[{"role": "user", "content": "x" * 10_000_000}])
    assert refused.value.status_code == 413


def test_a_closed_stream_frees_its_sequence_within_a_second(stack, client):
    endpoints = json.loads((stack.state / "endpoints.json").read_text())
    (engine,) = [replica["url"] for replica in endpoints["replicas"] if replica["model"] == "smollm2"]

    def await_running(count, seconds):
        deadline = time.monotonic() + seconds
        while f"ferrum_engine_running_requests {count}" not in (metrics := get(f"{engine}/metrics")):
            assert time.monotonic() < deadline, f"not {count} running after {seconds} s:\n{metrics}"
            time.sleep(0.02)

    stream = chat(client, stream=True, max_tokens=1500, messages=[{"role": "user", "content": "Tell a long story."}])
    next(iter(stream))
    await_running(1, seconds=5)
    stream.close()
    await_running(0, seconds=1)


def test_a_missing_key_is_an_authentication_error(tmp_path):
    manifest = CHAT_AND_EMBEDDING.format(models=environment("FERRUM_TEST_MODELS"))
    stack = Stack(tmp_path, manifest, "--api-key", "secret")
    try:
        with pytest.raises(openai.AuthenticationError) as refused:
            chat(stack.client(api_key="wrong"))
        assert refused.value.code == "invalid_api_key"
        assert {model.id for model in stack.client(api_key="secret").models.list()} == {"smollm2", "minilm"}
    finally:
        stack.stop()


def model(name, path):
    """A manifest of one chat model."""
    return (
        f"apiVersion: ferrum.dev/v1alpha1\nkind: FerrumModel\nmetadata: {{name: {name}}}\n"
        f"spec: {{model: 'file://{path}', task: chat}}\n"
    )


def test_too_much_waiting_is_a_rate_limit_error_with_retry_after(tmp_path):
    engine = SimulatedEngine(tmp_path, "--sim-tpot-ms=50", "--max-num-seqs=1", "--max-waiting=1")
    try:
        engine.await_ready()
        refused = []

        def ask():
            try:
                chat(engine.client(), model="sim", max_tokens=20)
            except openai.RateLimitError as error:
                refused.append(error)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert 1 <= len(refused) < 8
        assert all(int(error.response.headers["retry-after"]) >= 1 for error in refused)
    finally:
        engine.stop()


def test_a_model_that_cannot_load_is_unavailable_and_says_why(tmp_path):
    others = CHAT_AND_EMBEDDING.format(models=environment("FERRUM_TEST_MODELS"))
    stack = Stack(tmp_path, model("absent", "/nowhere/at/all") + "---\n" + others)
    try:
        stack.await_models("minilm", "smollm2")
        with pytest.raises(openai.InternalServerError) as refused:
            chat(stack.client(), model="absent")
        assert refused.value.status_code == 503
        assert "/nowhere/at/all" in str(refused.value)
    finally:
        stack.stop()
