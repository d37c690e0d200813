r"""Convert a BERT: from Hugging Face, Google (TF1), NVIDIA, bing_bert or DeepSpeed, and back.

python scripts/convert_model.py --model uncased_L-12_H-768_A-12 --output_dir models/google
python scripts/convert_model.py --model ckpt_8601.pt --bert_config_file bert_config.json \
    --vocab_file vocab.txt --output_dir models/nvidia
python scripts/convert_model.py --model google-bert/bert-base-uncased --vocab_file data/vocab.txt \
    --max_position_embeddings 1024 --output_dir models/adapted
python scripts/convert_model.py --model runs/seq512 --to tf1 --output_dir models/tf1

The kind of the source is found by its content. Weights are not changed, hidden states stay.
"""

import argparse

from ds_bert.commands.parser import add_negation, new_parser


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line, convert and say what was done."""
    options = vars(parse(argv, prog))
    from ds_bert.weights.convert import convert  # after parsing: torch takes seconds

    for title, text in convert(**options):
        print(f"{title:>12}: {text}")


def parse(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add(
        *("--model", "--model_name_or_path", "--init_checkpoint"),
        dest="source",
        required=True,
        metavar="MODEL",
        help="a Hugging Face folder or id, a run or checkpoint of ds_bert, a TF1 checkpoint (its "
        "prefix or folder), a .pt, .bin or .safetensors, or a folder of DeepSpeed's files",
    )
    add("--output_dir", required=True, help="where the model folder goes")
    add(
        *("--to",),
        choices=("hf", "tf1", "nvidia"),
        default="hf",
        help="what to write: Hugging Face, Google's TF1, NVIDIA's .pt (default: %(default)s)",
    )
    add(
        *("--config_file", "--bert_config_file"),
        help="the source's bert_config.json or config.json, where none lies beside it",
    )
    add(
        "--vocab_file",
        help="vocabulary to have: rows of shared tokens stay, new ones are the mean of their "
        "pieces; the source's own, where none lies beside it",
    )
    add("--source_vocab_file", help="the source's own vocabulary, where another lies beside it")
    add(
        "--do_lower_case",
        action=argparse.BooleanOptionalAction,
        help="casing of the tokenizer (default: what the source or its vocabulary says)",
    )
    add_negation(parser, "do_lower_case")
    add(
        "--max_position_embeddings",
        type=int,
        help="positions to have: more repeat the old ones, fewer cut the last ones off",
    )
    add("--hidden_act", help="activation, where the configuration says another: gelu_new")
    add("--seed", type=int, default=42, help="of a head that the source lacks (default: 42)")
    add("--overwrite", action="store_true", help="replace a model folder that is there")
    return parser.parse_args(argv)
