// The differentiable operator: sets of canvas fields to images, and dL/d(image) to dL/d(fields).

#include "raster.cuh"

#define DRAWABLE_LIMIT 1e6f

struct Fields {
    float x, y, sx, sy, theta, colour[3], opacity;
};

// Finite, with an extent, and not absurdly far; anything else is left out.
DEVICE int drawable(const Fields& f) {
    const float* values = &f.x;
    int finite = 1;
    for (int k = 0; k < 9; ++k) finite &= values[k] - values[k] == 0.0f;
    float most = fmaxf(fmaxf(fabsf(f.x), fabsf(f.y)), fmaxf(fabsf(f.sx), fabsf(f.sy)));
    return finite && most < DRAWABLE_LIMIT && fminf(f.sx, f.sy) > 1.0f / DRAWABLE_LIMIT;
}

// Fields [B, N, 9] to records [B, N] at height x width: Sigma = D R S^2 R' D by its Cholesky factor, in float64.
KERNEL(128) project(const Fields* RESTRICT fields, Record* RESTRICT records, int total, int height, int width) {
    FOR_BLOCKS for (int i = block.x * threads() + thread(); i < total; i += grid.x * threads()) {
        Fields f = fields[i];
        if (!drawable(f)) {
            float black[3] = {0.0f, 0.0f, 0.0f};
            records[i] = make_record(0.0f, 0.0f, 1.0f, 0.0f, 1.0f, black, 0.0f);
            continue;
        }
        double half_w = 0.5 * width, half_h = 0.5 * height, sx = f.sx, sy = f.sy;
        double c, s;
        sincospi(f.theta / PI, &s, &c);
        double l11 = half_w * sqrt(c * sx * c * sx + s * sy * s * sy);
        double slope = half_w * half_h * c * s * (sx - sy) * (sx + sy) / (l11 * l11);
        records[i] = make_record((float)((f.x + 1.0) * half_w), (float)((f.y + 1.0) * half_h), (float)l11,
                                 (float)slope, (float)(half_w * half_h * sx * sy / l11), f.colour, f.opacity);
    }
}

// Image [B, 3, H, W], not clipped, and coverage [B, H, W].
KERNEL(32 * WARPS) forward(const Record* RESTRICT records, float* RESTRICT image, float* RESTRICT coverage,
                           int count, int height, int width) {
    FOR_BLOCKS {
        Tile tile;
        if (take_tile(tile, height, width) < 0) continue;
        int area = height * width;
        Blend blend[HELD];
        blend_tile(blend, records + (long long)block.y * count, count, tile, nullptr);
        FOR_LANES {
#pragma unroll
            for (int p = 0; p < PIXELS; ++p) {
                if (!inside(tile, lane, p)) continue;
                long long at = y_of(tile, lane, p) * width + x_of(tile, lane);
                float covered = 1.0f - fabsf(blend[held].transmittance[p]);
                float factor = (1.0f + EPSILON) / (covered + EPSILON);
                float* to = image + 3ll * block.y * area + at;
                to[0] = blend[held].r[p] * factor;
                to[area] = blend[held].g[p] * factor;
                to[2ll * area] = blend[held].b[p] * factor;
                coverage[(long long)block.y * area + at] = covered;
            }
        }
    }
}

// From dL/d(image) [B, 3, H, W] and what forward gave: moments of each tile, partial [B, tiles, N, 9], and which
// of them are there, hits [B, tiles, chunks].
KERNEL(32 * WARPS) backward(const Record* RESTRICT records, const float* RESTRICT image,
                            const float* RESTRICT coverage, const float* RESTRICT upstream,
                            float* RESTRICT partial, unsigned* RESTRICT hits, int count, int height, int width) {
    FOR_BLOCKS {
        Tile tile;
        int number = take_tile(tile, height, width), tiles = tiles_of(width) * tiles_of(height);
        if (number < 0) continue;
        int area = height * width, chunks = (count + 31) / 32;
        Back back[HELD];
        FOR_LANES {
#pragma unroll
            for (int p = 0; p < PIXELS; ++p) {
                float r = 0.0f, g = 0.0f, b = 0.0f, over = 0.0f, covered = 0.0f;
                if (inside(tile, lane, p)) {
                    long long at = y_of(tile, lane, p) * width + x_of(tile, lane);
                    const float *up = upstream + 3ll * block.y * area + at, *shown = image + 3ll * block.y * area + at;
                    covered = coverage[(long long)block.y * area + at];
                    float per_coverage = 1.0f / (covered + EPSILON);
                    r = up[0] * per_coverage, g = up[area] * per_coverage, b = up[2ll * area] * per_coverage;
                    over = -(r * shown[0] + g * shown[area] + b * shown[2ll * area]);
                    // rest = C . dL/dC + A dL/dA, with (1 + EPSILON) C = shown (A + EPSILON)
                    back[held].rest[p] = -over * EPSILON;
                } else {
                    back[held].rest[p] = 0.0f;
                }
                back[held].r[p] = r * (1.0f + EPSILON);
                back[held].g[p] = g * (1.0f + EPSILON);
                back[held].b[p] = b * (1.0f + EPSILON);
                back[held].coverage[p] = over;
                back[held].transmittance[p] = inside(tile, lane, p) ? 1.0f : -1.0f;
            }
        }
        long long place = (long long)block.y * tiles + number;
        pass_tile(back, records + (long long)block.y * count, count, tile, nullptr,
                  partial + place * count * MOMENTS, hits + place * chunks);
    }
}

// dL/d(fields) [B, N, 9]: with n = sum h w and M = sum h w w', dL/d(mean) = L^-T n, dL/dSigma = 1/2 L^-T M L^-1,
// then the chain through Sigma = D R S^2 R' D, in float64. 0 for what is not drawn.
KERNEL(128) gather(const Fields* RESTRICT fields, const Record* RESTRICT records, const float* RESTRICT partial,
                   const unsigned* RESTRICT hits, float* RESTRICT gradient, int count, int height, int width) {
    FOR_BLOCKS {
        int tiles = tiles_of(width) * tiles_of(height), chunks = (count + 31) / 32;
        for (int i = block.x * threads() + thread(); i < count; i += grid.x * threads()) {
            long long at = (long long)block.y * count + i;
            float sums[MOMENTS], *out = gradient + at * 9;
            Record record = records[at];
            gather_sums(record, i, count, height, width, partial + (long long)block.y * tiles * count * MOMENTS,
                        hits + (long long)block.y * tiles * chunks, sums, MOMENTS);
            Fields f = fields[at];
            if (record.c.z < 0.0f) {
                for (int k = 0; k < 9; ++k) out[k] = 0.0f;
                continue;
            }
            double half_w = 0.5 * width, half_h = 0.5 * height, sx = f.sx, sy = f.sy;
            double c, s;
            sincospi(f.theta / PI, &s, &c);
            double i11 = record.a.z / WHITEN, i22 = record.b.x / WHITEN, i21 = -record.a.w * i22;
            double n_u = sums[1] / WHITEN, n_v = sums[2] / WHITEN;
            double whiten2 = (double)WHITEN * WHITEN;
            double n_uu = sums[3] / whiten2, n_uv = sums[4] / whiten2, n_vv = sums[5] / whiten2;
            double g_xx = half_w * half_w * (i11 * i11 * n_uu + 2.0 * i11 * i21 * n_uv + i21 * i21 * n_vv);
            double g_xy = half_w * half_h * i22 * (i11 * n_uv + i21 * n_vv), g_yy = half_h * half_h * i22 * i22 * n_vv;
            out[0] = (float)(half_w * (i11 * n_u + i21 * n_v));
            out[1] = (float)(half_h * i22 * n_v);
            out[2] = (float)(sx * (c * c * g_xx + 2.0 * c * s * g_xy + s * s * g_yy));
            out[3] = (float)(sy * (s * s * g_xx - 2.0 * c * s * g_xy + c * c * g_yy));
            out[4] = (float)((sx - sy) * (sx + sy) * (c * s * (g_yy - g_xx) + (c * c - s * s) * g_xy));
            for (int k = 0; k < 3; ++k) out[5 + k] = sums[6 + k];
            out[8] = f.opacity > 0.0f ? sums[0] / f.opacity : 0.0f;
        }
    }
}
