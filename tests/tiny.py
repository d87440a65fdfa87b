"""Random two-layer models of true architectures with real tokenizers: every code path, none of the cost, no hub.

:func:`write_tiny_lm` is a Qwen3; :func:`write_family` writes one model of each family in :data:`FAMILIES`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SENTENCES = (
    "How do I make a small wooden box for my desk?",
    "I cannot help with that request, because it would hurt people.",
    "First cut the boards, then glue the edges and let them dry.",
    "Tom has 3 apples and buys 4 more, so he has 7 apples.",
    "The user asks about a thing. I should think about it step by step.",
    "What is the sum of 12 and 30? The answer is 42.",
)

# As Qwen3: `enable_thinking=False` writes an empty thought, the default leaves the turn open.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}"
    "{%- endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over `SENTENCES`: encodes any text and decodes it back unchanged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    # As in Qwen3: turn markers are special (skipped on decoding), thought markers are ordinary added tokens.
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )


def write_tiny_lm(folder: Path, seed: int = 0, layers: int = 2, hidden: int = 32, context: int = 512) -> Path:
    """Save a random Qwen3ForCausalLM of `layers` x `hidden` and its tokenizer as a checkpoint folder."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.2,  # wide enough that greedy decoding does not tie
        eos_token_id=end_of_turn,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = end_of_turn
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


FAMILIES = ("qwen3", "r1_qwen", "r1_llama", "tags")

R1_BEGIN, R1_END, R1_USER, R1_ASSISTANT = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
)

# As DeepSeek-R1-Distill and Skywork-OR1: the system text stands bare after the first token (of several messages the
# last one), nothing ends a user's turn, thoughts are cut from assistant turns, and the template opens the thought.
R1_TEMPLATE = (
    "{%- set seen = namespace(system='') %}"
    "{%- for message in messages if message.role == 'system' %}{%- set seen.system = message.content %}{%- endfor %}"
    "{{- bos_token + seen.system }}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' %}{{- '<｜User｜>' + message.content }}"
    "{%- elif message.role == 'assistant' %}"
    "{{- '<｜Assistant｜>' + message.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{%- endif %}"
)

# As the first revision of DeepSeek-R1: the same, but the thought is left to the model.
R1_OLD_TEMPLATE = R1_TEMPLATE.replace("<｜Assistant｜><think>\\n", "<｜Assistant｜>")

# As plain ChatML: no switch, and no word of thoughts.
PLAIN_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

# How Qwen2 and Llama 3 cut text before byte-pair merges: several line breaks in a row may become one token, and so may
# punctuation with the line breaks after it.
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA_WORDS = _QWEN_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def merging_tokenizer(template: str, words: str = _QWEN_WORDS, tags: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer with the real pre-tokenisation of Qwen2 or Llama 3, in which ``\\n`` + ``\\n`` is one token.

    Without ``tags`` the thought markers are no tokens of their own but text, as where a model was fine-tuned to think
    without new tokens; then ``>`` + ``\\n`` + ``\\n`` is one token.
    """
    r1 = R1_USER in template
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    core.train_from_iterator(["<think>\n", "<think>\n\n</think>\n\nYes\n\nYes"] * 40 + [*SENTENCES], trainer)
    markers = [R1_BEGIN, R1_END, R1_USER, R1_ASSISTANT] if r1 else ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    core.add_special_tokens(markers)
    if tags:
        core.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    end = R1_END if r1 else "<|im_end|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=R1_BEGIN if r1 else None,
        eos_token=end,
        pad_token=end if r1 else "<|endoftext|>",  # R1's distillations pad with the end of a turn
        chat_template=template,
    )


def write_family(family: str, folder: Path, seed: int = 0) -> Path:
    """Save a random two-layer model of one family, with the tokenizer and template behaviour of its models."""
    if family == "qwen3":
        return write_tiny_lm(folder, seed, context=4096)
    torch.manual_seed(seed)
    r1 = family.startswith("r1")
    words = _LLAMA_WORDS if family == "r1_llama" else _QWEN_WORDS
    tokenizer = merging_tokenizer(R1_TEMPLATE if r1 else PLAIN_TEMPLATE, words)
    sizes = {
        "vocab_size": len(tokenizer) + 11,  # real embeddings have rows to spare
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if family == "r1_llama":
        scaling = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0}
        scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 256}
        model = LlamaForCausalLM(LlamaConfig(**sizes, rope_parameters=scaling))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(**sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if r1:
        # What the repositories of R1's distillations declare, although their tokenizers are byte-level ones.
        place = folder / "tokenizer_config.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | {"tokenizer_class": "LlamaTokenizerFast"}))
    return folder


def write_hasty_lm(folder: Path, seed: int = 1) -> Path:
    """A tiny model that writes whole words and often ends its thought or its turn.

    Its words have the same tokens alone and in a text, so that a text that was cut and encoded again is the same text.
    """
    write_tiny_lm(folder, seed)
    model, tokenizer = Qwen3ForCausalLM.from_pretrained(folder), tiny_tokenizer()
    close, end = (tokenizer.convert_tokens_to_ids(token) for token in ("</think>", "<|im_end|>"))
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    words = [i for i, text in enumerate(texts) if text[:1] == " " and text[1:].isalpha()]
    head = torch.zeros_like(model.lm_head.weight)
    for token, factor in [(close, 2.0), (end, 1.5), *((word, 1.0) for word in words)]:
        head[token] = factor * model.lm_head.weight[token].detach()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(folder)
    return folder
