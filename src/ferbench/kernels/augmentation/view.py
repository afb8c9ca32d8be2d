"""Cutout, resize, padded crop, flip and normalise in one launch: a program per image and block of output pixels.

Legend: B images, C channels, H x W source pixels, S x S output pixels. p_ pointer, i_
program index, o_ offsets, m_ mask, b_ block in registers. Pixels are computed in int32, as in the reference.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from ferbench.kernels.augmentation import geometry

FILL_RED, FILL_GREEN, FILL_BLUE = (tl.constexpr(value) for value in geometry.FILL)
FILL_GREY = tl.constexpr(geometry.GREY_FILL)


@triton.jit
def _painted(p_pixel, o_row, o_column, m, stride, W, left, top, right, bottom, fill):
    """Source pixels of one channel, Cutout's box painted."""
    b_value = tl.load(p_pixel + (o_row * W + o_column) * stride, mask=m, other=0).to(tl.int32)
    m_box = (o_column >= left) & (o_column <= right) & (o_row >= top) & (o_row <= bottom)
    return tl.where(m_box, fill, b_value)


@triton.jit(do_not_specialize=["H", "W", "S", "padding", "tail", "out_image", "out_channel", "out_pixel"])
def view_kernel(
    p_pixels,  # [B, H, W, C], or [B, C, H, W] with PLANAR
    p_plan,  # [B, tail + 7]
    p_out,  # [B, 3, S, S]
    p_first_x,  # [S] with RESIZE, as the next three
    p_weight_x,  # [S, TAPS_X]
    p_first_y,  # [S]
    p_weight_y,  # [S, TAPS_Y]
    H,
    W,
    S,
    padding,
    tail,
    out_image,
    out_channel,
    out_pixel,
    scale_red: tl.float32,
    scale_green: tl.float32,
    scale_blue: tl.float32,
    shift_red: tl.float32,
    shift_green: tl.float32,
    shift_blue: tl.float32,
    PLANAR: tl.constexpr,
    RESIZE: tl.constexpr,
    C: tl.constexpr,
    TAPS_X: tl.constexpr,
    TAPS_Y: tl.constexpr,
    BITS_X: tl.constexpr,
    BITS_Y: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_image = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    p_box = p_plan + i_image * (tail + 7) + tail
    left, top = tl.load(p_box), tl.load(p_box + 1)
    right, bottom = tl.load(p_box + 2), tl.load(p_box + 3)
    b_x = tl.where(tl.load(p_box + 6) != 0, S - 1 - o % S, o % S) + tl.load(p_box + 5) - padding
    b_y = o // S + tl.load(p_box + 4) - padding
    m_out = o < S * S
    m = m_out & (b_x >= 0) & (b_x < S) & (b_y >= 0) & (b_y < S)
    stride = 1 if PLANAR else C
    for c in tl.static_range(C):
        p_pixel = p_pixels + i_image * (H * W * C).to(tl.int64) + c * (H * W if PLANAR else 1)
        fill = FILL_GREY if C == 1 else (FILL_RED if c == 0 else (FILL_GREEN if c == 1 else FILL_BLUE))
        if RESIZE:
            b_first_x = tl.load(p_first_x + b_x, mask=m, other=0)
            b_first_y = tl.load(p_first_y + b_y, mask=m, other=0)
            b_value = tl.full((BLOCK,), 1 << (BITS_Y - 1), tl.int32)
            for j in range(TAPS_Y):
                o_row = tl.minimum(b_first_y + j, H - 1)
                b_across = tl.full((BLOCK,), 1 << (BITS_X - 1), tl.int32)
                for i in range(TAPS_X):
                    o_column = tl.minimum(b_first_x + i, W - 1)
                    b_weight = tl.load(p_weight_x + b_x * TAPS_X + i, mask=m, other=0)
                    b_pixel = _painted(p_pixel, o_row, o_column, m, stride, W, left, top, right, bottom, fill)
                    b_across += b_weight * b_pixel
                b_across = tl.minimum(tl.maximum(b_across >> BITS_X, 0), 255)
                b_value += tl.load(p_weight_y + b_y * TAPS_Y + j, mask=m, other=0) * b_across
            b_value = tl.minimum(tl.maximum(b_value >> BITS_Y, 0), 255)
        else:
            b_value = _painted(p_pixel, b_y, b_x, m, stride, W, left, top, right, bottom, fill)
        b_float = tl.where(m, b_value, 0).to(tl.float32)
        p_to = p_out + i_image * out_image + o.to(tl.int64) * out_pixel
        if (C == 1) | (c == 0):
            tl.store(p_to, b_float * scale_red + shift_red, mask=m_out)
        if (C == 1) | (c == 1):
            tl.store(p_to + out_channel, b_float * scale_green + shift_green, mask=m_out)
        if (C == 1) | (c == 2):
            tl.store(p_to + 2 * out_channel, b_float * scale_blue + shift_blue, mask=m_out)
