"""A byte-level vocabulary of some thirty tokens, so that stop strings and ends of sequences happen often."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from runtime.loading.vocabulary import Vocabulary

LETTERS = "abcdefghijklmnop"
BYTES = "ÃĠ©ðŁĺĤ"  # bytes as byte-level spells them: the first half of é, a space, the second half of é, an emoji
TOKENS = (*LETTERS, *BYTES, "ab", "cd", "Ġa", "Ã©")
MERGES = [("a", "b"), ("c", "d"), ("Ġ", "a"), ("Ã", "©")]
EOS = "<eos>"

NUM_PLAIN_TOKENS = len(TOKENS)
EOS_TOKEN_ID = NUM_PLAIN_TOKENS
LOGITS_WIDTH = NUM_PLAIN_TOKENS + 4
"""Models pad their logits; ids that the tokenizer does not have are legal and have no text."""


def build() -> Vocabulary:
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(TOKENS)}, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(EOS, special=True)])
    return Vocabulary(tokenizer=tokenizer, special_tokens={"eos_token": EOS}, eos_token_ids=(EOS_TOKEN_ID,))
