// One step of a fit on one canvas: blend, squared error, backward; then Adam in each Gaussian's own frame.
//
// Parameters of an image are [9, N] as in fitting/optimise.py: centre x, y in pixels of the full canvas, log l11,
// shear l21 / l22, log l22, r, g, b, logit of the opacity. Kernels of one image each: block.y is the image.

#include "fit.cuh"

// Canvas of a fit, planes [B, 3, s, s] in 0..1, of 8-bit pixels [B, S, S, 3]: averaged over areas.
KERNEL(256) average(const uint8_t* RESTRICT pixels, float* RESTRICT planes, int full, int size) {
    FOR_BLOCKS {
        double per = (double)full / size;
        const uint8_t* from = pixels + 3ll * block.y * full * full;
        float* to = planes + 3ll * block.y * size * size;
        for (int i = block.x * threads() + thread(); i < size * size; i += grid.x * threads()) {
            double top = i / size * per, bottom = (i / size + 1) * per;
            double left = i % size * per, right = (i % size + 1) * per;
            float sums[3] = {0.0f, 0.0f, 0.0f};
            for (int y = (int)top; y < min(full, (int)ceil(bottom)); ++y) {
                float share_y = (float)((fmin(bottom, y + 1.0) - fmax(top, (double)y)) / per);
                for (int x = (int)left; x < min(full, (int)ceil(right)); ++x) {
                    float share = share_y * (float)((fmin(right, x + 1.0) - fmax(left, (double)x)) / per);
                    for (int c = 0; c < 3; ++c) sums[c] += share * from[3ll * (y * full + x) + c];
                }
            }
            for (int c = 0; c < 3; ++c) to[(long long)c * size * size + i] = sums[c] * (1.0f / 255.0f);
        }
    }
}

// Squared error, clipped to 0..1, of each tile [B, tiles]; and unless partial is null, half its gradient as
// moments [B, tiles, N, 9] where hits [B, tiles, chunks] says so.
KERNEL(32 * WARPS) step(const Record* RESTRICT records, const float* RESTRICT target, float* RESTRICT errors,
                        float* RESTRICT partial, unsigned* RESTRICT hits, int count, int size) {
    FOR_BLOCKS {
        Tile tile;
        int number = take_tile(tile, size, size), area = size * size, chunks = (count + 31) / 32;
        if (number < 0) continue;
        Reached* seen = (Reached*)shared_memory + warp() * chunks;
        const Record* own = records + (long long)block.y * count;
        const float* wanted = target + 3ll * block.y * area;
        long long place = (long long)block.y * tiles_of(size) * tiles_of(size) + number;
        Blend blend[HELD];
        blend_tile(blend, own, count, tile, partial ? seen : nullptr);
        Back back[HELD];
        float error[HELD];
        FOR_LANES {
            error[held] = 0.0f;
#pragma unroll
            for (int p = 0; p < PIXELS; ++p) {
                int there = inside(tile, lane, p), at = y_of(tile, lane, p) * size + x_of(tile, lane);
                float per_coverage = reciprocal(1.0f - fabsf(blend[held].transmittance[p]) + EPSILON);
                float colour[3] = {blend[held].r[p], blend[held].g[p], blend[held].b[p]}, to[3], over = 0.0f;
#pragma unroll
                for (int c = 0; c < 3; ++c) {
                    float value = colour[c] * per_coverage * (1.0f + EPSILON);
                    float difference = there ? fminf(fmaxf(value, 0.0f), 1.0f) - wanted[c * area + at] : 0.0f;
                    error[held] = fmaf(difference, difference, error[held]);
                    // a value beyond the range that the clip brings to the target has no gradient
                    float per_value = value >= 0.0f && value <= 1.0f ? difference * per_coverage : 0.0f;
                    to[c] = per_value * (1.0f + EPSILON);
                    over = fmaf(-per_value, value, over);
                }
                back[held].r[p] = to[0], back[held].g[p] = to[1], back[held].b[p] = to[2];
                back[held].coverage[p] = over;
                back[held].rest[p] = -over * EPSILON;  // C . dL/dC + A dL/dA
                back[held].transmittance[p] = there ? 1.0f : -1.0f;
            }
        }
        float sum = warp_sum(error, 1);
        FOR_LANES if (lane == 0) errors[place] = sum;
        if (partial)
            pass_tile(back, own, count, tile, seen, partial + place * count * MOMENTS, hits + place * chunks);
    }
}


// One Adam step (Kingma and Ba 2015), and the records of the next canvas. Where `keep`, the parameters before it
// go to kept when their error is the least so far.
KERNEL(256) update(float* RESTRICT params, float* RESTRICT first, float* RESTRICT second, Record* RESTRICT records,
                   const float* RESTRICT partial, const unsigned* RESTRICT hits, const float* RESTRICT errors,
                   float* RESTRICT best, float* RESTRICT kept, int count, int size, int full, int keep,
                   float unbias1, float unbias2, float decay, float next_scale) {
    FOR_BLOCKS {
        int columns = tiles_of(size), tiles = columns * columns, chunks = (count + 31) / 32;
        long long at = (long long)block.y * count;
        int better = 0;
        if (keep) {
            float* sums = (float*)shared_memory;
            float sum = 0.0f;
            for (int t = thread(); t < tiles; t += threads()) sum += errors[(long long)block.y * tiles + t];
            sums[thread()] = sum;
            SYNC();
            for (int half = threads() / 2; half; half /= 2) {
                if (thread() < half) sums[thread()] += sums[thread() + half];
                SYNC();
            }
            better = sums[0] < best[block.y];
            SYNC();
            if (better && thread() == 0) best[block.y] = sums[0];
        }
        for (int i = thread(); i < count; i += threads()) {
            float sums[MOMENTS], value[9], direction[9];
            Record record = records[at + i];
            gather_sums(record, i, count, size, size, partial + (long long)block.y * tiles * count * MOMENTS,
                        hits + (long long)block.y * tiles * chunks, sums, MOMENTS);
            float gradient[9] = {sums[1], sums[2], sums[3] / WHITEN, sums[4] / WHITEN, sums[5] / WHITEN,
                                 sums[6], sums[7], sums[8], sums[0] * (1.0f - record.c.y)};
#pragma unroll
            for (int f = 0; f < 9; ++f) {
                long long place = 9 * at + (long long)f * count + i;
                value[f] = params[place];
                if (better) kept[place] = value[f];
                float mean = fmaf(first[place] - gradient[f], BETA1, gradient[f]);
                float square = fmaf(second[place] - gradient[f] * gradient[f], BETA2, gradient[f] * gradient[f]);
                first[place] = mean, second[place] = square;
                direction[f] = -decay * mean * unbias1 / sqrtf(fmaf(square, unbias2, EPSILON2));
            }
            advance(value, direction, (float)full);
#pragma unroll
            for (int f = 0; f < 9; ++f) params[9 * at + (long long)f * count + i] = value[f];
            records[at + i] = place_on_canvas(value, next_scale);
        }
    }
}

// Kept parameters as canonical fields [B, N, 9], Sigma = L L' by its eigenvectors in float64, clipped to low and
// high [9] and, where `half`, rounded to float16. What is no number stays none.
KERNEL(256) finish(const float* RESTRICT kept, const float* RESTRICT low, const float* RESTRICT high,
                   float* RESTRICT fields, int count, int full, int half) {
    FOR_BLOCKS for (int i = thread(); i < count; i += threads()) {
        const float* p = kept + 9ll * block.y * count + i;
        double l11 = exp((double)p[2 * count]), l22 = exp((double)p[4 * count]), l21 = p[3 * count] * l22;
        double xx = l11 * l11, xy = l11 * l21, yy = l21 * l21 + l22 * l22, apart = 0.5 * (xx - yy);
        double to_canvas = 2.0 / full;
        double sx = sqrt(0.5 * (xx + yy) + sqrt(apart * apart + xy * xy)), sy = fmax(l11 * l22 / sx, 0.25);
        sx = fmax(fmin(sx, MAX_ASPECT * sy), sy);
        double theta = 0.5 * atan2(2.0 * xy, xx - yy);
        float canonical[9] = {
            (float)(p[0] * to_canvas - 1.0), (float)(p[count] * to_canvas - 1.0), (float)(sx * to_canvas),
            (float)(sy * to_canvas), (float)(theta < 0.5 * PI ? theta : theta - PI), p[5 * count], p[6 * count],
            p[7 * count], (float)(1.0 / (1.0 + exp(-(double)p[8 * count])))};
        for (int f = 0; f < 9; ++f) {
            float value = fminf(fmaxf(canonical[f], low[f]), high[f]);
            value = half ? from_half(to_half(value)) : value;
            fields[9 * ((long long)block.y * count + i) + f] = canonical[f] == canonical[f] ? value : canonical[f];
        }
    }
}
