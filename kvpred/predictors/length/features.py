"""What a conversation shows of the answer to come: earlier answers, and the surface of the prompt."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from operator import mul
from statistics import median

from kvpred.data.conversations import Message
from kvpred.data.tokenizers import estimate_tokens

# Characters of a prompt that cues are looked for in, and of an earlier answer that words are compared with:
# enough for what decides the length, and a bound for the time that a long paste takes.
_HEAD_CHARS, _TAIL_CHARS, _ANSWER_CHARS = 500, 200, 800
# Characters of a prompt that are compared with earlier prompts.
_COMPARED_CHARS = 300
# Earlier turns that are compared.
_COMPARED_TURNS = 8
# Tokens added before taking logarithms, so that one-word answers do not rule.
SOFT_TOKENS = 5
# A typical answer, in tokens: where averages over few answers are pulled to, with the weight of two answers.
# Median of the ShareGPT sample.
_TYPICAL_TOKENS, _PULL = 210, 2
# Weight of each answer before the latest, relative to the next.
_DECAY = 0.6
# An answer beyond is near the cut of the ShareGPT sample.
_LONG_TOKENS = 680
# Weight of an earlier answer: e to the power of this times the likeness of the prompts, 0 to 1.
_LIKENESS_WEIGHT = 4.0
_SENTENCE_ENDS = ".!?)\"'`:"

# Words of a prompt that speak of the answer's length, by kind.
_CUES = {
    "write": "write writing draft compose create generate make produce design develop",
    "list": "list table bullet example examples idea ideas option options suggest suggestions top",
    "explain": "explain describe how why detail details detailed elaborate discuss compare analyze analyse "
    "analysis",
    "short": "short shorter shorten brief briefly concise concisely single summary summarize summarise only "
    "just simply tldr",
    "long": "long longer more comprehensive essay article blog story chapter report guide full complete "
    "extensive thorough",
    "code": "code function script python javascript java sql html css react class api error bug implement "
    "implementation program django typescript component",
    "rewrite": "rewrite rephrase paraphrase revise improve edit correct fix change modify update expand "
    "translate",
    "chat": "thanks thank great ok okay yes no sure good perfect nice cool hi hello hey",
    "title": "email letter message tweet title headline caption subject slogan name",
    "plan": "plan schedule strategy outline business marketing",
    "wait": "ready understand understood",
    "cut": "truncated incomplete stopped finish remaining cut cutoff",
}
_CUE_OF = {word: name for name, words in _CUES.items() for word in words.split()}
_PHRASES = {
    "wait": r"(?:reply|respond|answer) (?:only )?with|say (?:yes|ok)|i(?:'ll| will) (?:now |then )?"
    r"(?:provide|give|send|paste|ask|tell|feed|share)|next (?:message|prompt)|wait for|"
    r"don'?t (?:answer|respond|reply|write)",
    "role": r"act as|you are|pretend|your role|i want you to",
    "steps": r"step[- ]by[- ]step|in[- ]depth|one (?:word|sentence)|where you left|rest of|"
    r"last (?:line|sentence)",
}
_PHRASE_PATTERNS = {name: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for name, words in _PHRASES.items()}
_STARTS = {
    "continue": r"\W*(?:continue|go on|keep going|more|next|proceed|carry on|finish)\b",
    "yes_no": r"\W*(?:is|are|do|does|did|can|could|would|will|should|was|were|has|have|am)\b",
    "what": r"\W*(?:what|who|when|where|which)\b",
}
_START_PATTERNS = {name: re.compile(words, re.IGNORECASE) for name, words in _STARTS.items()}
_AMOUNT = re.compile(
    r"\b(\d{1,4})(?:-|\s)?(words?|paragraphs?|sentences?|ideas?|examples?|questions?|points?|pages?|items?|"
    r"characters?|tips?|titles?|options?|tweets?|ways|reasons|bullets?|topics?|keywords?|names?)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(r"\b(?:sorry|apologi[sz]e|i cannot|i can't|unable to|as an ai)\b", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_DIGIT, _CAPITAL = re.compile("[0-9]"), re.compile("[A-Z]")
_PUNCTUATION = re.compile(r"[^\w\s]")
_WORD = re.compile(r"\w+")


def features(messages: Sequence[Message]) -> dict[str, float]:
    """Return the features of a conversation that ends with the user's message.

    Lengths are estimated from the text, in tokens, so that no tokeniser is needed. What is not there is NaN:
    a first message has no history.

    Parameters
    ----------
    messages : sequence of Message

    Returns
    -------
    dict of str to float
        Always the same names in the same order.
    """
    prompt = messages[-1].content
    tokens = [estimate_tokens(message.content) for message in messages]
    answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
    asked = [place for place, message in enumerate(messages[:-1]) if message.role == "user"]
    pairs = [place for place in asked if messages[place + 1].role == "assistant"]
    context = {
        "n_user": len(asked) + 1,
        "n_answers": len(answers),
        "begins_with_answer": float(messages[0].role == "assistant"),
        "history_tokens": sum(tokens[:-1]),
        "context_tokens": sum(tokens),
    }
    return (
        _prompt(prompt, tokens[-1])
        | context
        | _answers([tokens[place] for place in answers])
        | _asked([tokens[place] for place in asked], tokens[-1])
        | _likeness(messages, tokens, pairs)
        | _latest_answer(messages[answers[-1]].content if answers else None, prompt)
    )


def excerpt(text: str, head_chars: int, tail_chars: int) -> str:
    """Return a long text's head and tail, a short one as it is."""
    if len(text) <= head_chars + tail_chars:
        return text
    return f"{text[:head_chars]} {text[-tail_chars:]}"


def _prompt(prompt: str, tokens: float) -> dict[str, float]:
    chars = len(prompt) + 1
    shown = excerpt(prompt, _HEAD_CHARS, _TAIL_CHARS)
    cues = Counter(_CUE_OF.get(word) for word in _WORD.findall(shown.lower()))
    amounts = [(float(number), unit.lower()) for number, unit in _AMOUNT.findall(shown)]
    return {
        "prompt_tokens": tokens,
        "prompt_chars": len(prompt),
        "prompt_lines": prompt.count("\n"),
        "prompt_questions": prompt.count("?"),
        "prompt_code": prompt.count("```"),
        "prompt_not_ascii": _not_ascii(shown),
        "prompt_digits": len(_DIGIT.findall(shown)) / (len(shown) + 1),
        "prompt_capitals": len(_CAPITAL.findall(shown)) / (len(shown) + 1),
        "prompt_punctuation": len(_PUNCTUATION.findall(shown)) / (len(shown) + 1),
        "prompt_first_line_share": len(prompt.partition("\n")[0]) / chars,
        "prompt_ends_asking": prompt.rstrip().endswith("?"),
        "prompt_ends_colon": prompt.rstrip().endswith(":"),
        "prompt_starts_small": prompt[:1].islower(),
        "amount": amounts[-1][0] if amounts else math.nan,
        "amount_words": next((n for n, unit in amounts if unit.startswith("word")), math.nan),
        **{f"cue_{name}": cues[name] for name in _CUES},
        **{f"phrase_{name}": len(phrase.findall(shown)) for name, phrase in _PHRASE_PATTERNS.items()},
        **{f"starts_{name}": bool(start.match(shown)) for name, start in _START_PATTERNS.items()},
    }


def _answers(tokens: Sequence[float]) -> dict[str, float]:
    """Return what the lengths of earlier answers say, the latest last."""
    names = ("last", "last_2", "last_3", "mean", "median", "most", "least", "spread", "first", "log_mean")
    more = ("decayed", "pulled", "long_share", "trend")
    if not tokens:
        return dict.fromkeys((f"answer_{name}" for name in (*names, *more)), math.nan)
    count = len(tokens)
    logs = [math.log(value + SOFT_TOKENS) for value in tokens]
    weights = [_DECAY**age for age in range(count - 1, -1, -1)]
    mean = sum(tokens) / count
    found = (
        tokens[-1],
        tokens[-2] if count > 1 else math.nan,
        tokens[-3] if count > 2 else math.nan,
        mean,
        median(tokens),
        max(tokens),
        min(tokens),
        math.sqrt(sum((value - mean) ** 2 for value in tokens) / count),
        tokens[0],
        sum(logs) / count,
        sum(map(mul, weights, logs)) / sum(weights),
        (sum(logs) + _PULL * math.log(_TYPICAL_TOKENS + SOFT_TOKENS)) / (count + _PULL),
        sum(value > _LONG_TOKENS for value in tokens) / count,
        (logs[-1] - logs[0]) / count,
    )
    return {f"answer_{name}": value for name, value in zip((*names, *more), found, strict=True)}


def _asked(tokens: Sequence[float], now: float) -> dict[str, float]:
    """Return how this prompt's length compares with those of earlier ones."""
    mean = sum(tokens) / len(tokens) if tokens else math.nan
    return {
        "asked_mean": mean,
        "asked_last": tokens[-1] if tokens else math.nan,
        "asked_relative": math.log((now + SOFT_TOKENS) / (mean + SOFT_TOKENS)),
    }


def _likeness(messages: Sequence[Message], tokens: Sequence[float], pairs: Sequence[int]) -> dict[str, float]:
    """Return how long the answers to similar prompts were; `pairs` are the places of answered prompts."""
    if not pairs:
        names = ("alike", "alike_answer", "alike_mean", "answer_per_prompt")
        return dict.fromkeys(names, math.nan)
    words = _words(messages[-1].content)
    closest, closest_answer, total, weighted = -1.0, math.nan, 0.0, 0.0
    for place in pairs[-_COMPARED_TURNS:]:
        others = _words(messages[place].content)
        alike = len(words & others) / max(1, len(words | others))
        answer = math.log(tokens[place + 1] + SOFT_TOKENS)
        if alike >= closest:
            closest, closest_answer = alike, answer
        weight = math.exp(_LIKENESS_WEIGHT * alike)
        total += weight
        weighted += weight * answer
    ratios = [math.log((tokens[p + 1] + SOFT_TOKENS) / (tokens[p] + SOFT_TOKENS)) for p in pairs]
    return {
        "alike": closest,
        "alike_answer": closest_answer,
        "alike_mean": weighted / total,
        "answer_per_prompt": sum(ratios) / len(ratios),
    }


def _latest_answer(answer: str | None, prompt: str) -> dict[str, float]:
    """Return what the latest answer looks like: an unfinished one is likely to be gone on with."""
    if answer is None:
        names = (
            "unfinished",
            "asks",
            "code",
            "open_code",
            "lines",
            "bullets",
            "not_ascii",
            "refuses",
            "overlap",
        )
        return dict.fromkeys((f"latest_{name}" for name in names), math.nan)
    end = answer.rstrip()[-1:]
    words = _words(prompt)
    fences = answer.count("```")
    return {
        "latest_unfinished": end not in _SENTENCE_ENDS,
        "latest_asks": end == "?",
        "latest_code": fences,
        "latest_open_code": fences % 2,
        "latest_lines": answer.count("\n"),
        "latest_bullets": len(_BULLET.findall(answer[:_ANSWER_CHARS])),
        "latest_not_ascii": _not_ascii(answer[:_HEAD_CHARS]),
        "latest_refuses": bool(_REFUSAL.search(answer[:_TAIL_CHARS])),
        "latest_overlap": len(words & set(_WORD.findall(answer[:_ANSWER_CHARS].lower())))
        / max(1, len(words)),
    }


def _not_ascii(text: str) -> float:
    """Return the share of characters beyond ASCII."""
    return 1 - len(text.encode("ascii", "ignore")) / len(text) if text else 0.0


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text[:_COMPARED_CHARS].lower()))
