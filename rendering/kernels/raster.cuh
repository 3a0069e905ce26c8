// The equation on tiles of 16 x 16 pixels: one warp a tile, front to back, and back for the gradient.
//
//     alpha = min(ALPHA_MAX, o exp(-(u^2 + v^2) / 2)), skipped below ALPHA_MIN, (u, v) = L^-1 (p - mean)
//     image = (1 + EPSILON) C / (A + EPSILON), C and A composed until T (1 - alpha) <= TRANSMITTANCE_MIN
//
// L is the Cholesky factor of the covariance in pixels: u depends on the column alone. A lane holds eight pixels
// of one column, every second row; so u is one number a lane, and v goes down the column in equal steps. The
// rows of a tile are four groups of four; a Gaussian is walked over those groups that its ellipse reaches.
// ALPHA_MIN and the other constants come from the compiler's command line.

#pragma once

#include "device.cuh"

#define PI 3.14159265358979323846
#define INFINITE 1e38f
#define TILE 16
#define PIXELS 8   // of a lane
#define GROUPS 4   // of rows
#define MOMENTS 9
#define WHITEN 0.8493218002880191f       // sqrt(log2(e) / 2): folds exp's base and the 1/2 of sigma into u and v
#define LOG2_ALPHA_MIN -7.994353436858858f
#define MARGIN 0.01f                      // pixels; rounding must not cut a row that the equation reaches

// A Gaussian on a canvas. Opacity below ALPHA_MIN: reach_x and reach_y are -1e9, and no tile is reached.
struct Record {
    float4 a;  // mean x, mean y, WHITEN / l11, slope = l21 / l11
    float4 b;  // WHITEN / l22, log2 opacity, r, g
    float4 c;  // b, opacity, reach_x, reach_y: half the box of the ellipse alpha >= ALPHA_MIN
    float4 d;  // column of its lowest row from the mean, l22^2 reach^2, (l22 / l11)^2, unused
};

// The record of a Gaussian from its factor (pixels), colour and opacity.
DEVICE Record make_record(float x, float y, float l11, float slope, float l22, const float* colour, float opacity) {
    Record record;
    float log2_opacity = log2f(fmaxf(opacity, 1e-30f));
    float reach2 = fmaxf((log2_opacity - LOG2_ALPHA_MIN) / (WHITEN * WHITEN), 0.0f), reach = sqrtf(reach2);
    float l21 = slope * l11, height = sqrtf(l21 * l21 + l22 * l22);
    int seen = opacity >= ALPHA_MIN;
    record.a = {x, y, WHITEN / l11, slope};
    record.b = {WHITEN / l22, log2_opacity, colour[0], colour[1]};
    record.c = {colour[2], opacity, seen ? reach * l11 + MARGIN : -1e9f, seen ? reach * height + MARGIN : -1e9f};
    record.d = {reach * l11 * l21 / height, l22 * l22 * reach2, l22 * l22 / (l11 * l11), 0.0f};
    return record;
}

// Which groups of rows of a tile a Gaussian reaches, as bits.
DEVICE unsigned reached_groups(const Record* RESTRICT record, int column, int row) {
    float4 a = record->a, c = record->c;
    float left = column * (float)TILE, top = row * (float)TILE;
    if (!(a.x + c.z > left && a.x - c.z < left + TILE && a.y + c.w > top && a.y - c.w < top + TILE)) return 0;
    float4 d = record->d;
    float first = fmaxf(left + 0.5f - a.x, -c.z), last = fminf(left + TILE - 0.5f - a.x, c.z);
    if (first > last) return 0;
    float low_at = fminf(fmaxf(d.x, first), last), high_at = fminf(fmaxf(-d.x, first), last);
    float low = a.y + a.w * low_at + sqrtf(fmaxf(d.y - d.z * low_at * low_at, 0.0f)) + MARGIN - top;
    float high = a.y + a.w * high_at - sqrtf(fmaxf(d.y - d.z * high_at * high_at, 0.0f)) - MARGIN - top;
    unsigned groups = 0;
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) groups |= (low >= 4 * g + 0.5f && high <= 4 * g + 3.5f) << g;
    return groups;
}

// For 32 Gaussians in a row, which of them reach each group of rows of a tile.
struct Reached {
    unsigned groups[GROUPS];
};

DEVICE Reached reached(const Record* RESTRICT records, int chunk, int count, int column, int row) {
    Reached found;
#ifdef HOST
    for (int g = 0; g < GROUPS; ++g) found.groups[g] = 0;
    for (int lane = 0; lane < 32; ++lane) {
        int i = chunk * 32 + lane;
        unsigned mine = i < count ? reached_groups(records + i, column, row) : 0;
        for (int g = 0; g < GROUPS; ++g) found.groups[g] |= (mine >> g & 1u) << lane;
    }
#else
    int i = chunk * 32 + threadIdx.x % 32;
    unsigned mine = i < count ? reached_groups(records + i, column, row) : 0;
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) found.groups[g] = __ballot_sync(~0u, mine >> g & 1u);
#endif
    return found;
}

DEVICE unsigned any_group(const Reached& found) {
    return found.groups[0] | found.groups[1] | found.groups[2] | found.groups[3];
}

// A tile of an image of H x W.
struct Tile {
    int column, row, height, width;
};

DEVICE int tiles_of(int pixels) { return (pixels + TILE - 1) / TILE; }

// The tile of this warp, and its number; -1 where there is none left.
DEVICE int take_tile(Tile& tile, int height, int width) {
    int columns = tiles_of(width), number = block.x * WARPS + warp();
    tile = {number % columns, number / columns, height, width};
    return number < columns * tiles_of(height) ? number : -1;
}

DEVICE int x_of(const Tile& tile, int lane) { return tile.column * TILE + lane % TILE; }
DEVICE int y_of(const Tile& tile, int lane, int p) { return tile.row * TILE + lane / TILE + 2 * p; }
DEVICE int inside(const Tile& tile, int lane, int p) {
    return x_of(tile, lane) < tile.width && y_of(tile, lane, p) < tile.height;
}

// What is blended so far in the pixels of a lane; T is negative where the walk has stopped.
struct Blend {
    float transmittance[PIXELS], r[PIXELS], g[PIXELS], b[PIXELS];
};

DEVICE void start_blend(Blend& blend, const Tile& tile, int lane) {
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
        blend.transmittance[p] = inside(tile, lane, p) ? 1.0f : -1.0f;
        blend.r[p] = blend.g[p] = blend.b[p] = 0.0f;
    }
}

// Whether a lane has a pixel whose walk goes on.
DEVICE int goes_on(const float* transmittance) {
    float most = transmittance[0];
#pragma unroll
    for (int p = 1; p < PIXELS; ++p) most = fmaxf(most, transmittance[p]);
    return most > 0.0f;
}

#ifdef HOST
DEVICE int any_lane(const int* flags) {
    int found = 0;
    for (int lane = 0; lane < 32; ++lane) found |= flags[lane];
    return found;
}
#else
DEVICE int any_lane(const int* flags) { return __any_sync(~0u, flags[0]); }
#endif

// A Gaussian as a lane meets it: u at its column, v at its first row and per step of two rows.
struct Meeting {
    float u, v, step, log2_alpha;
};

DEVICE Meeting meet(const float4& a, const float4& b, const Tile& tile, int lane) {
    Meeting at;
    float dx = x_of(tile, lane) + 0.5f - a.x, dy = y_of(tile, lane, 0) + 0.5f - a.y;
    at.u = dx * a.z;
    at.v = fmaf(-a.w, dx, dy) * b.x;
    at.step = 2.0f * b.x;
    at.log2_alpha = fmaf(-at.u, at.u, b.y);
    return at;
}

// Alpha without its upper bound, 0 where it is skipped.
DEVICE float falloff(const Meeting& at, float v) {
    float exponent = fmaf(-v, v, at.log2_alpha);
    return exponent < LOG2_ALPHA_MIN ? 0.0f : exp2_fast(exponent);
}

// Blend a layer of alpha behind what is there; returns its weight, 0 where the walk stops or has stopped.
DEVICE float put_behind(float& transmittance, float alpha) {
    float weight = transmittance * alpha, after = transmittance - weight;
    int drawn = after > TRANSMITTANCE_MIN;
    transmittance = drawn ? after : -fabsf(transmittance);
    return drawn ? weight : 0.0f;
}

DEVICE void blend_one(Blend& blend, const Record* RESTRICT record, unsigned groups, const Tile& tile, int lane) {
    float4 a = record->a, b = record->b;
    float blue = record->c.x;
    Meeting at = meet(a, b, tile, lane);
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) {
        if (!(groups >> g & 1u)) continue;
#pragma unroll
        for (int p = 2 * g; p < 2 * g + 2; ++p) {
            float alpha = fminf(falloff(at, fmaf((float)p, at.step, at.v)), ALPHA_MAX);
            float weight = put_behind(blend.transmittance[p], alpha);
            blend.r[p] = fmaf(weight, b.z, blend.r[p]);
            blend.g[p] = fmaf(weight, b.w, blend.g[p]);
            blend.b[p] = fmaf(weight, blue, blend.b[p]);
        }
    }
}

// Which groups of rows the Gaussian of a bit reaches.
DEVICE unsigned groups_of(const Reached& found, int bit) {
    unsigned groups = 0;
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) groups |= (found.groups[g] >> bit & 1u) << g;
    return groups;
}

// Blend all of a tile, and note in `seen` [chunks] (shared; or null) which Gaussians were met.
DEVICE void blend_tile(Blend* blend, const Record* RESTRICT records, int count, const Tile& tile, Reached* seen) {
    int alive = 1;
    FOR_LANES start_blend(blend[held], tile, lane);
    for (int chunk = 0; chunk * 32 < count; ++chunk) {
        Reached found = {{0, 0, 0, 0}};
        if (alive) found = reached(records, chunk, count, tile.column, tile.row);
        if (seen) { FOR_LANES if (lane == 0) seen[chunk] = found; }
        unsigned left = any_group(found);
        if (!left) continue;
        for (; left; left &= left - 1) {
            int bit = first_bit(left);
            unsigned groups = groups_of(found, bit);
            FOR_LANES blend_one(blend[held], records + chunk * 32 + bit, groups, tile, lane);
        }
        int on[HELD];
        FOR_LANES on[held] = goes_on(blend[held].transmittance);
        alive = any_lane(on);
    }
    SYNC_WARP();
}

// What reaches the pixels of a lane from the loss, and how far the way back has come.
struct Back {
    float transmittance[PIXELS], r[PIXELS], g[PIXELS], b[PIXELS], coverage[PIXELS];  // dL/dC, dL/dA
    float rest[PIXELS];  // sum of weight (c . dL/dC + dL/dA) over what has not been passed yet
};

struct Moments {
    float sums[MOMENTS];  // of h, h u, h v, h u u, h u v, h v v with h = dL/d(log alpha); weight dL/dC
};

// Pass one Gaussian on the way front to back: dL/d(alpha) = T s - rest / (1 - alpha), s = c . dL/dC + dL/dA.
DEVICE Moments pass_one(Back& back, const Record* RESTRICT record, unsigned groups, const Tile& tile, int lane) {
    float4 a = record->a, b = record->b;
    float blue = record->c.x;
    Meeting at = meet(a, b, tile, lane);
    float h0 = 0.0f, hv = 0.0f, hvv = 0.0f, to_r = 0.0f, to_g = 0.0f, to_b = 0.0f;
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) {
        if (!(groups >> g & 1u)) continue;
#pragma unroll
        for (int p = 2 * g; p < 2 * g + 2; ++p) {
            float v = fmaf((float)p, at.step, at.v);
            float fall = falloff(at, v), alpha = fminf(fall, ALPHA_MAX);
            float weight = put_behind(back.transmittance[p], alpha);
            float toward = fmaf(b.z, back.r[p], fmaf(b.w, back.g[p], fmaf(blue, back.b[p], back.coverage[p])));
            float own = weight * toward;
            back.rest[p] -= own;
            float h = fmaf(-alpha * reciprocal(1.0f - alpha), back.rest[p], own);
            h = weight != 0.0f && fall <= ALPHA_MAX ? h : 0.0f;
            float h_v = h * v;
            h0 += h;
            hv += h_v;
            hvv = fmaf(h_v, v, hvv);
            to_r = fmaf(weight, back.r[p], to_r);
            to_g = fmaf(weight, back.g[p], to_g);
            to_b = fmaf(weight, back.b[p], to_b);
        }
    }
    float hu = h0 * at.u;
    return {{h0, hu, hv, hu * at.u, hv * at.u, hvv, to_r, to_g, to_b}};
}

// The sums over lanes, written to nine floats.
#ifdef HOST
DEVICE void store_sums(const Moments* moments, float* out) {
    for (int m = 0; m < MOMENTS; ++m) out[m] = warp_sum(moments[0].sums + m, MOMENTS);
}
#else
DEVICE void store_sums(const Moments* moments, float* out) {
    // Halves of the warp trade halves of the values, so that eight sums take nine shuffles and not forty.
    int lane = threadIdx.x % 32;
    float v[8], ninth = moments->sums[8];
#pragma unroll
    for (int m = 0; m < 8; ++m) v[m] = moments->sums[m];
#pragma unroll
    for (int width = 16, kept = 4; kept; width /= 2, kept /= 2) {
        int upper = lane & width;
#pragma unroll
        for (int m = 0; m < kept; ++m) {
            float send = upper ? v[m] : v[m + kept], keep = upper ? v[m + kept] : v[m];
            v[m] = keep + __shfl_xor_sync(~0u, send, width);
        }
    }
    v[0] += __shfl_xor_sync(~0u, v[0], 2);
    v[0] += __shfl_xor_sync(~0u, v[0], 1);
#pragma unroll
    for (int width = 16; width; width /= 2) ninth += __shfl_xor_sync(~0u, ninth, width);
    if (lane % 4 == 0) out[lane / 4] = v[0];
    if (lane == 1) out[8] = ninth;
}
#endif

// The way back over a tile. `partial` [N, 9] and `hits` [chunks] of this tile are written; of partial, the rows
// whose bit in hits is set. Without `seen` (from blend_tile) the tile is searched again.
DEVICE void pass_tile(Back* back, const Record* RESTRICT records, int count, const Tile& tile, const Reached* seen,
                      float* RESTRICT partial, unsigned* RESTRICT hits) {
    int alive = 1;
    for (int chunk = 0; chunk * 32 < count; ++chunk) {
        Reached found = {{0, 0, 0, 0}};
        if (seen) found = seen[chunk];
        else if (alive) found = reached(records, chunk, count, tile.column, tile.row);
        unsigned left = any_group(found);
        FOR_LANES if (lane == 0) hits[chunk] = left;
        if (!left) continue;
        for (; left; left &= left - 1) {
            int bit = first_bit(left);
            unsigned groups = groups_of(found, bit);
            Moments moments[HELD];
            FOR_LANES moments[held] = pass_one(back[held], records + chunk * 32 + bit, groups, tile, lane);
            store_sums(moments, partial + (chunk * 32 + bit) * MOMENTS);
        }
        if (seen) continue;
        int on[HELD];
        FOR_LANES on[held] = goes_on(back[held].transmittance);
        alive = any_lane(on);
    }
}

// The tiles that a Gaussian's box reaches: columns left to right, rows top to bottom.
struct Reach {
    int left, right, top, bottom;
};

DEVICE Reach reach_of(const Record& record, int columns, int rows) {
    if (record.c.z < 0.0f) return {0, -1, 0, -1};
    return {(int)fmaxf(floorf((record.a.x - record.c.z) / TILE), 0.0f),
            (int)fminf(floorf((record.a.x + record.c.z) / TILE), columns - 1.0f),
            (int)fmaxf(floorf((record.a.y - record.c.w) / TILE), 0.0f),
            (int)fminf(floorf((record.a.y + record.c.w) / TILE), rows - 1.0f)};
}

// The sums of Gaussian i over the tiles that it reaches, in their order; partial [tiles, N, sums].
DEVICE void gather_sums(const Record& record, int i, int count, int height, int width, const float* RESTRICT partial,
                        const unsigned* RESTRICT hits, float* sums, const int number) {
    int columns = tiles_of(width), chunks = (count + 31) / 32;
    Reach reach = reach_of(record, columns, tiles_of(height));
#pragma unroll
    for (int m = 0; m < number; ++m) sums[m] = 0.0f;
    for (int row = reach.top; row <= reach.bottom; ++row)
        for (int column = reach.left; column <= reach.right; ++column) {
            long long tile = row * columns + column;
            if (!(hits[tile * chunks + i / 32] >> (i % 32) & 1u)) continue;
            const float* from = partial + (tile * count + i) * number;
#pragma unroll
            for (int m = 0; m < number; ++m) sums[m] += from[m];
        }
}
