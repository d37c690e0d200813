"""The instances of Google's script in plain Python, written from its rules: an oracle of tests.

Slow and short on purpose. The order of the draws is part of the rules; see
`ds_bert.instances.sentence_pairs` and `ds_bert.instances.google_masks` for the fast form.
"""

from itertools import chain
from random import Random

CLS, SEP, MASK = "[CLS]", "[SEP]", "[MASK]"


def read_vocabulary(content):
    """Id of each token; one that stands on several lines keeps its first place, and the last id.

    Args:
        content: bytes of vocab.txt.
    """
    lines = content.decode().replace("\r", "").split("\n")
    if lines[-1] == "":
        lines.pop()
    return {line.strip(): number for number, line in enumerate(lines)}


def instances(documents, vocabulary, options):
    """All instances in the order of the output, and the generator after the last draw.

    Args:
        documents: lists of sentences, which are lists of tokens.
        vocabulary: from `read_vocabulary`.
        options: anything with the fields named as the flags of the script.

    Returns:
        [tokens, first position of segment 1, masked positions, labels, is_random_next] of each.
    """
    rng, words, made = Random(options.random_seed), list(vocabulary), []
    documents = list(documents)
    rng.shuffle(documents)
    for _ in range(options.dupe_factor):
        for number in range(len(documents)):
            for a, b, is_random_next in pairs(documents, number, options, rng):
                tokens = [CLS, *a, SEP, *b, SEP]
                made.append([*masked(tokens, words, options, rng), int(is_random_next)])
                made[-1].insert(1, len(a) + 2)
    rng.shuffle(made)
    return made, rng


def pairs(documents, number, options, rng):
    document, limit = documents[number], options.max_seq_length - 3
    target = rng.randint(2, limit) if rng.random() < options.short_seq_prob else limit
    start = 0
    while start < len(document):
        stop = start + 1
        while stop < len(document) and size(document[start:stop]) < target:
            stop += 1
        middle = start + 1
        if stop - start > 1:
            middle = start + rng.randint(1, stop - start - 1)
        a = document[start:middle]
        is_random_next = stop - start == 1 or rng.random() < 0.5
        if is_random_next:
            b = random_sentences(documents, number, target - size(a), rng)
            start = middle
        else:
            b, start = document[middle:stop], stop
        yield *shortened(joined(a), joined(b), limit, rng), is_random_next


def joined(sentences):
    return list(chain(*sentences))


def size(sentences):
    return sum(map(len, sentences))


def random_sentences(documents, number, wanted, rng):
    for _ in range(10):
        other = rng.randint(0, len(documents) - 1)
        if other != number:
            break
    first = rng.randint(0, len(documents[other]) - 1)
    last = first + 1
    while last < len(documents[other]) and size(documents[other][first:last]) < wanted:
        last += 1
    return documents[other][first:last]


def shortened(a, b, limit, rng):
    while len(a) + len(b) > limit:
        longer = a if len(a) > len(b) else b
        longer.pop(0 if rng.random() < 0.5 else -1)
    assert a and b, "where the script fails"
    return a, b


def masked(tokens, words, options, rng):
    """What the model sees, and the positions and labels of the masks."""
    units = []
    for position, token in enumerate(tokens):
        if token in (CLS, SEP):
            continue
        if options.do_whole_word_mask and units and token.startswith("##"):
            units[-1].append(position)
        else:
            units.append([position])
    rng.shuffle(units)
    share = max(1, round(len(tokens) * options.masked_lm_prob))
    wanted, shown, chosen = min(options.max_predictions_per_seq, share), list(tokens), []
    for unit in units:
        if len(chosen) >= wanted:
            break
        if len(chosen) + len(unit) <= wanted:
            for position in unit:
                shown[position] = replacement(tokens[position], words, rng)
            chosen += unit
    chosen.sort()
    return [shown, chosen, [tokens[position] for position in chosen]]


def replacement(token, words, rng):
    if rng.random() < 0.8:
        return MASK
    return token if rng.random() < 0.5 else words[rng.randint(0, len(words) - 1)]
