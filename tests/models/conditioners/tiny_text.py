"""Text encoders of a few weights, in the files that the real ones have."""

import json

import torch
from transformers import CLIPTextConfig, CLIPTextModel


def save_clip(folder, width=16, seed=0):
    """A Stable Diffusion-like folder: tokenizer/ that knows letters, text_encoder/ of two layers."""
    letters = [chr(code) for code in range(ord('a'), ord('z') + 1)]
    vocabulary = [*letters, *(f'{letter}</w>' for letter in letters), '<|startoftext|>', '<|endoftext|>']
    (folder / 'tokenizer').mkdir(parents=True)
    (folder / 'tokenizer/vocab.json').write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / 'tokenizer/merges.txt').write_text('#version: 0.2\n')
    torch.manual_seed(seed)
    encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=width, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=52, eos_token_id=53, pad_token_id=53))
    encoder.save_pretrained(folder / 'text_encoder')
    return str(folder)


def save_ldm_bert(folder, width=16):
    """LDM's folder: tokenizer/ of a few words, bert/ of two layers."""
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    (folder / 'tokenizer').mkdir(parents=True)
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'cat', 'dog']
    (folder / 'tokenizer/vocab.txt').write_text('\n'.join(words))
    torch.manual_seed(0)
    LDMBertModel(LDMBertConfig(vocab_size=len(words), encoder_layers=2, encoder_ffn_dim=32, encoder_attention_heads=2,
                               head_dim=8, d_model=width)).save_pretrained(folder / 'bert')
    return str(folder)
