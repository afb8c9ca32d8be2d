"""RandAugment in one launch: program b applies image b's operations, one after the other.

Legend: B images, C channels, H x W pixels, n operations. p_ pointer, i_ program index,
o_ offsets, m_ mask, b_ block in registers. Pixels are computed in int32, as in the reference.

An operation needs the whole picture before it (a histogram, a moved or neighbouring pixel), so the program walks over
the picture once per operation, from one scratch copy to the other, which the cache holds.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from ferbench.kernels.augmentation import color
from ferbench.kernels.augmentation.plan import OPERATIONS

BRIGHTNESS = tl.constexpr(OPERATIONS.index("brightness"))
POSTERIZE = tl.constexpr(OPERATIONS.index("posterize"))
SOLARIZE = tl.constexpr(OPERATIONS.index("solarize"))
AUTOCONTRAST = tl.constexpr(OPERATIONS.index("autocontrast"))
EQUALIZE = tl.constexpr(OPERATIONS.index("equalize"))
CONTRAST = tl.constexpr(OPERATIONS.index("contrast"))
COLOR = tl.constexpr(OPERATIONS.index("color"))
SHARPNESS = tl.constexpr(OPERATIONS.index("sharpness"))
ROTATE = tl.constexpr(OPERATIONS.index("rotate"))
RED, GREEN, BLUE = (tl.constexpr(weight) for weight in color.LUMA)


@triton.jit
def _settle(AMD: tl.constexpr):
    """Wait until every thread of this program sees what the others have written."""
    if AMD:
        # a barrier on AMD orders shared memory only; stores to global memory are waited for by hand
        asm: tl.constexpr = "s_waitcnt vmcnt(0)\n\tv_mov_b32 $0, 0"
        tl.inline_asm_elementwise(asm, "=v,~{memory}", [], dtype=tl.int32, is_pure=False, pack=1)
    tl.debug_barrier()


@triton.jit
def _luma(p_pixel, o, area, m, C: tl.constexpr):
    """Brightness of pixels o of a planar picture [C, area]."""
    b_first = tl.load(p_pixel + o, mask=m, other=0).to(tl.int32)
    if C == 1:
        return b_first
    b_second = tl.load(p_pixel + area + o, mask=m, other=0).to(tl.int32)
    b_third = tl.load(p_pixel + 2 * area + o, mask=m, other=0).to(tl.int32)
    return (b_first * RED + b_second * GREEN + b_third * BLUE + 32768) >> 16


@triton.jit
def _blend(b_value, b_other, weight):
    """weight in units of 2^-16 of b_value, the rest of b_other."""
    return (b_value * weight + b_other * (65536 - weight)) >> 16


@triton.jit
def _mean(p_old, area, C: tl.constexpr, BLOCK: tl.constexpr):
    """The picture's mean brightness, rounded."""
    total = tl.zeros((), tl.int64)
    for start in range(0, area, BLOCK):
        o = start + tl.arange(0, BLOCK)
        total += tl.sum(_luma(p_old, o, area, o < area, C))
    return ((2 * total + area) // (2 * area)).to(tl.int32)


@triton.jit
def _stretch(b_level, b_count):
    """Autocontrast's table from a histogram."""
    low = tl.min(tl.where(b_count > 0, b_level, 255))
    high = tl.max(tl.where(b_count > 0, b_level, 0))
    scale = tl.where(low == high, 1.0, (high - low).to(tl.float32) * (1.0 / 255.0))
    b_offset = (b_level - tl.where(low == high, 0, low)).to(tl.float32)
    b_table = tl.div_rn(b_offset, tl.zeros_like(b_offset) + scale)
    return tl.minimum(tl.maximum(b_table, 0.0), 255.0).to(tl.int32)


@triton.jit
def _flatten(b_level, b_count, area):
    """Equalize's table from a histogram."""
    high = tl.max(tl.where(b_count > 0, b_level, 0))
    step = (area - tl.sum(tl.where(b_level == high, b_count, 0))) // 255
    b_below = tl.cumsum(b_count, axis=0) - b_count
    b_table = tl.minimum((b_below + step // 2) // tl.maximum(step, 1), 255)
    return tl.where(step > 0, b_table, b_level)


@triton.jit
def _write_tables(p_old, p_table, operation, amount, weight, area, C: tl.constexpr, BLOCK: tl.constexpr):
    """The look-up tables [C, 256] of an operation on the picture p_old [C, area]."""
    b_level = tl.arange(0, 256)
    b_table = b_level
    if operation == BRIGHTNESS:
        b_table = (b_level.to(tl.float32) * amount).to(tl.int32)
    elif operation == POSTERIZE:
        kept = 8 - amount.to(tl.int32)
        b_table = (b_level >> kept) << kept
    elif operation == SOLARIZE:
        b_table = tl.where(b_level.to(tl.float32) >= amount, 255 - b_level, b_level)
    elif operation == CONTRAST:
        b_table = _blend(b_level, _mean(p_old, area, C, BLOCK), weight)
    for c in tl.static_range(C):
        if (operation == AUTOCONTRAST) | (operation == EQUALIZE):
            b_count = tl.zeros((256,), tl.int32)
            for start in range(0, area, BLOCK):
                o = start + tl.arange(0, BLOCK)
                b_value = tl.load(p_old + c * area + o, mask=o < area, other=0).to(tl.int32)
                b_count += tl.histogram(b_value, 256, mask=o < area)
            if operation == AUTOCONTRAST:
                b_table = _stretch(b_level, b_count)
            else:
                b_table = _flatten(b_level, b_count, area)
        tl.store(p_table + c * 256 + b_level, b_table.to(tl.uint8))


@triton.jit
def _sharpen(p_plane, b_value, o, m, H, W, weight):
    """Sharpness of one channel [H, W] at pixels o; the outermost stay."""
    b_y = o // W
    b_x = o % W
    m_inner = m & (b_y > 0) & (b_y < H - 1) & (b_x > 0) & (b_x < W - 1)
    b_total = 4 * b_value
    for k in tl.static_range(9):
        p_near = p_plane + o + (k // 3 - 1) * W + (k % 3 - 1)
        b_total += tl.load(p_near, mask=m_inner, other=0).to(tl.int32)
    return tl.where(m_inner, _blend(b_value, (2 * b_total + 13) // 26, weight), b_value)


@triton.jit
def _moved_from(p_map, o, m, H, W):
    """Where pixels o come from under a map of six numbers, and whether that lies inside."""
    b_x = o % W
    b_y = o // W
    b_column = (tl.load(p_map) * b_x + (tl.load(p_map + 1) * b_y + tl.load(p_map + 2))) >> 16
    b_row = (tl.load(p_map + 3) * b_x + (tl.load(p_map + 4) * b_y + tl.load(p_map + 5))) >> 16
    m_inside = m & (b_column >= 0) & (b_column < W) & (b_row >= 0) & (b_row < H)
    return b_row * W + b_column, m_inside


@triton.jit
def _operate(p_old, p_new, p_table, p_map, operation, weight, o, H, W, C: tl.constexpr):
    """Pixels o of one operation from the picture p_old to p_new, both [C, H, W]."""
    area = H * W
    m = o < area
    for c in tl.static_range(C):
        b_value = tl.load(p_old + c * area + o, mask=m, other=0).to(tl.int32)
        if (operation >= BRIGHTNESS) & (operation <= CONTRAST):
            b_value = tl.load(p_table + c * 256 + b_value).to(tl.int32)
        elif operation == COLOR:
            b_value = _blend(b_value, _luma(p_old, o, area, m, C), weight)
        elif operation == SHARPNESS:
            b_value = _sharpen(p_old + c * area, b_value, o, m, H, W, weight)
        elif operation >= ROTATE:
            o_source, m_inside = _moved_from(p_map, o, m, H, W)
            b_value = tl.load(p_old + c * area + o_source, mask=m_inside, other=0).to(tl.int32)
        tl.store(p_new + c * area + o, b_value.to(tl.uint8), mask=m)


@triton.jit(do_not_specialize=["B", "H", "W"])
def operations_kernel(
    p_images,  # [B, H, W, C]
    p_plan,  # [B, 8 n + 7]
    p_scratch,  # [2, B, C, H, W] pictures before and after an operation; the last result is at index n % 2
    p_tables,  # [B, C, 256]
    B,
    H,
    W,
    N_OPERATIONS: tl.constexpr,
    AMD: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_image = tl.program_id(0).to(tl.int64)
    area = H * W
    picture = (area * C).to(tl.int64)
    p_row = p_plan + i_image * (8 * N_OPERATIONS + 7)
    p_table = p_tables + i_image * C * 256
    for start in range(0, area, BLOCK):
        o = start + tl.arange(0, BLOCK)
        for c in tl.static_range(C):
            b_value = tl.load(p_images + i_image * picture + o * C + c, mask=o < area)
            tl.store(p_scratch + i_image * picture + c * area + o, b_value, mask=o < area)
    _settle(AMD)
    for slot in range(N_OPERATIONS):
        p_old = p_scratch + ((slot % 2) * B + i_image) * picture
        p_new = p_scratch + ((1 - slot % 2) * B + i_image) * picture
        operation = tl.load(p_row + slot)
        amount = tl.load(p_row + N_OPERATIONS + slot).to(tl.float32, bitcast=True)
        weight = (amount * 65536.0 + 0.5).to(tl.int32)
        if (operation >= BRIGHTNESS) & (operation <= CONTRAST):
            _write_tables(p_old, p_table, operation, amount, weight, area, C, BLOCK)
        _settle(AMD)
        p_map = p_row + 2 * N_OPERATIONS + 6 * slot
        for start in range(0, area, BLOCK):
            _operate(p_old, p_new, p_table, p_map, operation, weight, start + tl.arange(0, BLOCK), H, W, C)
        _settle(AMD)
