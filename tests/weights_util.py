"""Weights of other programs, made from the documentation of their formats alone."""

import struct

import numpy as np
import pyarrow
import torch
from transformers import BertConfig, BertForPreTraining

from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS

_WORDS = "the of and to in is it was for able un ##able ##s ##ing walk"
WORDS = (*SPECIAL_TOKENS, *_WORDS.split())
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
}
_CASTAGNOLI = 0x82F63B78


def config(**changes):
    return BertConfig(**{**SIZES, **changes})


def stock_model(**changes):
    """A BertForPreTraining whose every weight differs from what a new one has."""
    torch.manual_seed(1)
    model = BertForPreTraining(config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def stock_weights(model):
    """Its weights by name, tied ones once."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if "decoder" not in n}


def sample(vocab_size=SIZES["vocab_size"], length=10):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(vocab_size, (3, length), generator=generator)
    return {"input_ids": ids, "token_type_ids": (torch.arange(length) > 5).long().expand(3, -1)}


@torch.no_grad()
def outputs(model, inputs):
    """Hidden states after each layer, masked-LM and next-sentence logits."""
    result = model.eval()(**inputs, output_hidden_states=True)
    return [*result.hidden_states, result.prediction_logits, result.seq_relationship_logits]


def assert_same_outputs(one, other, inputs=None, tolerance=1e-5):
    inputs = inputs or sample()
    for a, b in zip(outputs(one, inputs), outputs(other, inputs), strict=True):
        assert (a - b).abs().max() <= tolerance


# --- TensorFlow ---------------------------------------------------------------------------------


def google_variables(seed=0):
    """All variables of google-research/bert's pre-training graph, by name."""
    random = np.random.default_rng(seed)
    hidden, inner = SIZES["hidden_size"], SIZES["intermediate_size"]
    shapes = {
        "bert/embeddings/word_embeddings": (SIZES["vocab_size"], hidden),
        "bert/embeddings/token_type_embeddings": (2, hidden),
        "bert/embeddings/position_embeddings": (SIZES["max_position_embeddings"], hidden),
        "bert/embeddings/LayerNorm/beta": (hidden,),
        "bert/embeddings/LayerNorm/gamma": (hidden,),
        "bert/pooler/dense/kernel": (hidden, hidden),
        "bert/pooler/dense/bias": (hidden,),
        "cls/predictions/transform/dense/kernel": (hidden, hidden),
        "cls/predictions/transform/dense/bias": (hidden,),
        "cls/predictions/transform/LayerNorm/beta": (hidden,),
        "cls/predictions/transform/LayerNorm/gamma": (hidden,),
        "cls/predictions/output_bias": (SIZES["vocab_size"],),
        "cls/seq_relationship/output_weights": (2, hidden),
        "cls/seq_relationship/output_bias": (2,),
    }
    for number in range(SIZES["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{number}"
        for name in ("query", "key", "value"):
            shapes[f"{layer}/attention/self/{name}/kernel"] = (hidden, hidden)
            shapes[f"{layer}/attention/self/{name}/bias"] = (hidden,)
        for name, width in (("attention/output", hidden), ("output", inner)):
            shapes[f"{layer}/{name}/dense/kernel"] = (width, hidden)
            shapes[f"{layer}/{name}/dense/bias"] = (hidden,)
            shapes[f"{layer}/{name}/LayerNorm/beta"] = (hidden,)
            shapes[f"{layer}/{name}/LayerNorm/gamma"] = (hidden,)
        shapes[f"{layer}/intermediate/dense/kernel"] = (hidden, inner)
        shapes[f"{layer}/intermediate/dense/bias"] = (inner,)
    return {name: random.normal(0, 0.4, shape).astype("<f4") for name, shape in shapes.items()}


def google_forward(variables, inputs):
    """BERT from TensorFlow's variables in float64, written down from the paper's formulas."""
    values = {name: value.astype(np.float64) for name, value in variables.items()}
    ids, segments = inputs["input_ids"].numpy(), inputs["token_type_ids"].numpy()
    positions = values["bert/embeddings/position_embeddings"][: ids.shape[1]]
    words = values["bert/embeddings/word_embeddings"]
    x = words[ids] + values["bert/embeddings/token_type_embeddings"][segments] + positions
    x = _norm(values, "bert/embeddings", x)
    states = [x]
    for number in range(SIZES["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{number}"
        x = _norm(values, f"{layer}/attention/output", x + _attention(values, layer, x))
        inner = _gelu(_dense(values, f"{layer}/intermediate", x))
        x = _norm(values, f"{layer}/output", x + _dense(values, f"{layer}/output", inner))
        states.append(x)
    head = _gelu(_dense(values, "cls/predictions/transform", x))
    head = _norm(values, "cls/predictions/transform", head)
    masked_lm = head @ words.T + values["cls/predictions/output_bias"]
    pooled = np.tanh(_dense(values, "bert/pooler", x[:, 0]))
    weights = values["cls/seq_relationship/output_weights"]
    return [*states, masked_lm, pooled @ weights.T + values["cls/seq_relationship/output_bias"]]


def _dense(values, name, x):
    return x @ values[f"{name}/dense/kernel"] + values[f"{name}/dense/bias"]


def _norm(values, name, x):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
    return x * values[f"{name}/LayerNorm/gamma"] + values[f"{name}/LayerNorm/beta"]


def _gelu(x):
    return x * 0.5 * (1 + torch.erf(torch.from_numpy(x) / 2**0.5).numpy())


def _attention(values, layer, x):
    heads = SIZES["num_attention_heads"]
    query, key, value = (
        (
            x @ values[f"{layer}/attention/self/{name}/kernel"]
            + values[f"{layer}/attention/self/{name}/bias"]
        )
        .reshape(*x.shape[:2], heads, -1)
        .swapaxes(1, 2)
        for name in ("query", "key", "value")
    )
    scores = np.exp(query @ key.swapaxes(2, 3) / query.shape[-1] ** 0.5)
    context = scores / scores.sum(-1, keepdims=True) @ value
    return _dense(values, f"{layer}/attention/output", context.swapaxes(1, 2).reshape(x.shape))


def crc32c(data):
    """The Castagnoli checksum bit by bit, by its definition."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ _CASTAGNOLI * (crc & 1)
    return crc ^ 0xFFFFFFFF


def _masked(data):
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32)


def varint(value):
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)


def _block(entries, restart_every, compress):
    body, before, restarts = b"", b"", []
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % restart_every == 0:
            restarts.append(len(body))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        lengths = (shared, len(key) - shared, len(value))
        body += b"".join(map(varint, lengths)) + key[shared:] + value
        before = key
    restarts = restarts or [0]
    body += struct.pack(f"<{len(restarts)}I", *restarts) + struct.pack("<I", len(restarts))
    kind = b"\0"
    if compress:
        body, kind = pyarrow.compress(body, codec="snappy", asbytes=True), b"\1"
    return body + kind + _masked(body + kind)


def table(entries, per_block=10**6, restart_every=16, compress=False):
    """A LevelDB table of sorted (key, value) pairs."""
    content, handles = b"", []
    for start in range(0, len(entries), per_block):
        some = entries[start : start + per_block]
        block = _block(some, restart_every, compress)
        handles.append((some[-1][0], varint(len(content)) + varint(len(block) - 5)))
        content += block
    meta, index = _block([], 1, False), _block(handles, 1, False)
    footer = varint(len(content)) + varint(len(meta) - 5)
    footer += varint(len(content) + len(meta)) + varint(len(index) - 5)
    magic = bytes.fromhex("57fb808b247547db")
    return content + meta + index + footer.ljust(40, b"\0") + magic


def write_bundle(folder, variables, num_shards=1, name="model.ckpt-20", **how):
    """A checkpoint as TensorFlow's Saver lays it out; returns its prefix."""
    header = b"\x08" + varint(num_shards) + b"\x1a\x02\x08\x01"
    entries, data = [(b"", header)], [b""] * num_shards
    for number, (variable, value) in enumerate(sorted(variables.items())):
        shard, raw = number % num_shards, value.tobytes()
        shape = b""
        for size in value.shape:
            dimension = b"\x08" + varint(size)
            shape += b"\x12" + varint(len(dimension)) + dimension
        kind = {"f": 1, "i": 9}[value.dtype.kind]
        entry = b"\x08" + varint(kind) + b"\x12" + varint(len(shape)) + shape
        entry += b"\x18" + varint(shard) if shard else b""
        entry += b"\x20" + varint(len(data[shard])) if data[shard] else b""
        entry += b"\x28" + varint(len(raw)) + b"\x35" + _masked(raw)
        entries.append((variable.encode(), entry))
        data[shard] += raw
    prefix = folder / name
    (folder / f"{name}.index").write_bytes(table(entries, **how))
    for shard, content in enumerate(data):
        (folder / f"{name}.data-{shard:05d}-of-{num_shards:05d}").write_bytes(content)
    return prefix
