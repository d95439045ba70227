"""Requests of transformers and ONNX Runtime, with real small models: what counts, and that outputs stay as they are."""

from __future__ import annotations

import time

import pytest

import greenml

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def meter(tmp_path_factory):
    with greenml.serve(tmp_path_factory.mktemp("serving") / "serving.json") as made:
        yield made


def t5():
    torch.manual_seed(1)
    config = transformers.T5Config(
        vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
        name_or_path="somebody/tiny-t5",
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config).eval()


def gpt2():
    torch.manual_seed(1)
    config = transformers.GPT2Config(vocab_size=60, n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
                                     eos_token_id=1, pad_token_id=1)  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def counted(meter, model, kind, count):
    for _ in range(600):
        made = meter.totals().groups.get((model, kind))
        if made is not None and made.count >= count:
            return made
        time.sleep(0.05)
    raise AssertionError(meter.totals().groups)


@pytest.mark.parametrize("make", [t5, gpt2])
def test_generate_is_a_request_with_the_tokens_that_it_read_and_made(meter, make):
    from greenml.integrations.generate import measure_generate

    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    plain = make().generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    model = measure_generate(measure_generate(make(), meter, name=make.__name__), meter)
    outputs = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    assert torch.equal(outputs, plain)
    made = counted(meter, make.__name__, "generate", 1)
    assert made.count == 1
    assert made.input_tokens == 6  # without the padding
    start = 1 if make is t5 else 4
    ends = [(row[start:] == 1).nonzero() for row in plain]
    expected = sum(int(end[0]) + 1 if len(end) else len(row[start:]) for end, row in zip(ends, plain, strict=True))
    assert made.output_tokens == expected


def speech():
    torch.manual_seed(1)
    config = transformers.Speech2TextConfig(
        vocab_size=60, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, input_feat_per_channel=8,
        conv_channels=16, max_source_positions=100, max_target_positions=30,
    )  # fmt: skip
    return transformers.Speech2TextForConditionalGeneration(config).eval()


@pytest.mark.parametrize(
    ("make", "given", "read"),
    [
        (gpt2, {"inputs_embeds": torch.zeros(2, 5, 16)}, 10),
        (gpt2, {"inputs_embeds": torch.zeros(1, 5, 16), "attention_mask": torch.tensor([[0, 0, 1, 1, 1]])}, 3),
        (t5, {"inputs_embeds": torch.zeros(2, 5, 16)}, 10),
        (speech, {"input_features": torch.zeros(1, 40, 8), "attention_mask": torch.ones(1, 40).long()}, None),
        (speech, {"inputs": torch.zeros(1, 40, 8)}, None),
    ],
    ids=["embeddings", "embeddings with padding", "embeddings of an encoder", "sound", "sound as inputs"],
)
def test_what_is_no_token_is_not_counted_as_one(meter, make, given, read):
    from greenml.integrations.generate import measure_generate

    model = measure_generate(make(), meter)
    with meter.request("outer") as request:
        from greenml.integrations import generate

        with generate._within(request):
            model.generate(**given, min_new_tokens=4, max_new_tokens=4, do_sample=False)
    assert request.input_tokens == read
    assert request.output_tokens == 4 * next(iter(given.values())).shape[0]


def test_what_is_never_taken_ends_its_request_and_a_note_is_kept_once(meter):
    from greenml.integrations.generate import measure_pipeline

    class Unknown(Words):
        def _answer(self, text):
            return self.model.generate(text, max_new_tokens=3)

    class Model:
        config = None

        def generate(self, text, max_new_tokens):
            return text

    pipeline = measure_pipeline(Unknown(Model()), meter, name="unknown")
    for _ in range(3):
        pipeline("a")
    assert (pipeline.last.status, pipeline.last.input_tokens) == ("completed", None)
    assert len([note for note in meter._notes if "Model.generate were not counted" in note]) == 1
    pipeline(["a", "b"])
    assert pipeline.last.status == "cancelled"
    answers = pipeline(["a", "b"])
    assert next(answers) == "a"
    answers.close()
    assert pipeline.last.status == "cancelled"


def test_a_call_that_fails_is_a_failed_request(meter):
    from greenml.integrations.generate import measure_generate

    model = measure_generate(gpt2(), meter, name="failing")
    with pytest.raises(ValueError, match="max_new_tokens"):
        model.generate(torch.tensor([[5]]), max_new_tokens=-1)
    assert counted(meter, "failing", "generate", 1).requests["failed"] == 1


class Words:
    """What a pipeline needs of a model, without a tokenizer's files."""

    task = "text-generation"

    def __init__(self, model) -> None:
        self.model = model

    def __call__(self, texts):
        if isinstance(texts, list):
            return (self._answer(text) for text in texts)
        return self._answer(texts)

    def _answer(self, text):
        return self.model.generate(torch.tensor([[len(word) for word in text.split()]]), max_new_tokens=3).tolist()


def test_a_pipeline_call_is_one_request_with_the_tokens_of_its_generate(meter):
    from greenml.integrations.generate import measure_pipeline

    pipeline = measure_pipeline(Words(gpt2()), meter, name="piped")
    assert pipeline.task == "text-generation"
    assert len(pipeline("some words here")[0]) >= 4
    assert (pipeline.last.status, pipeline.last.input_tokens) == ("completed", 3)
    answers = pipeline(["a b", "c d e"])
    assert pipeline.last.status == ""  # until the last answer is taken
    assert len(list(answers)) == 2
    assert (pipeline.last.status, pipeline.last.input_tokens) == ("completed", 5)
    made = counted(meter, "piped", "text-generation", 2)
    assert made.count == 2
    assert made.input_tokens == 8


def test_a_run_of_an_onnx_session_is_a_request(meter, tmp_path):
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    numpy = pytest.importorskip("numpy")
    from greenml.integrations.onnxruntime import measured

    ids = onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, [None, None])
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.INT64, [None, None])
    node = onnx.helper.make_node("Add", ["input_ids", "input_ids"], ["out"])
    graph = onnx.helper.make_graph([node], "doubling", [ids], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    session = measured(ort.InferenceSession(str(tmp_path / "model.onnx")), meter)
    feed = {"input_ids": numpy.array([[1, 2, 3]], dtype=numpy.int64)}
    assert session.run(None, feed)[0].tolist() == [[2, 4, 6]]
    assert session.get_inputs()[0].name == "input_ids"
    values = {"input_ids": ort.OrtValue.ortvalue_from_numpy(feed["input_ids"])}
    assert session.run_with_ort_values(["out"], values)[0].numpy().tolist() == [[2, 4, 6]]
    bound = session.io_binding()
    bound.bind_cpu_input("input_ids", feed["input_ids"])
    bound.bind_output("out")
    session.run_with_iobinding(bound)
    with pytest.raises(Exception, match="input_ids"):
        session.run(None, {})
    made = counted(meter, "doubling", "onnxruntime", 4)
    assert made.requests == {"completed": 3, "failed": 1, "cancelled": 0}
    assert (made.input_tokens, made.with_tokens) == (3, 1)
