// Gaussians that do little move to where the error is; see fitting/relocate.py.

#include "fit.cuh"

// What the squared error of each tile grows by without each of its Gaussians: costs [B, tiles, N] where hits
// [B, tiles, chunks] says so; and the residual [B, 3, s, s], target minus image.
KERNEL(32 * WARPS) removal(const Record* RESTRICT records, const float* RESTRICT target, float* RESTRICT costs,
                           unsigned* RESTRICT hits, float* RESTRICT residual, int count, int size) {
    FOR_BLOCKS {
        Tile tile;
        int number = take_tile(tile, size, size), area = size * size, chunks = (count + 31) / 32;
        if (number < 0) continue;
        Reached* seen = (Reached*)shared_memory + warp() * chunks;
        const Record* own = records + (long long)block.y * count;
        long long place = (long long)block.y * tiles_of(size) * tiles_of(size) + number;
        Blend all[HELD], rest[HELD];  // blended colours; what of them is yet to be passed
        float wanted[HELD][PIXELS][3], end[HELD][PIXELS], error[HELD][PIXELS];
        blend_tile(all, own, count, tile, seen);
        FOR_LANES {
#pragma unroll
            for (int p = 0; p < PIXELS; ++p) {
                int there = inside(tile, lane, p), at = y_of(tile, lane, p) * size + x_of(tile, lane);
                float colour[3] = {all[held].r[p], all[held].g[p], all[held].b[p]};
                end[held][p] = fabsf(all[held].transmittance[p]);
                float factor = (1.0f + EPSILON) * reciprocal(1.0f - end[held][p] + EPSILON);
                error[held][p] = 0.0f;
#pragma unroll
                for (int c = 0; c < 3; ++c) {
                    long long to = (3ll * block.y + c) * area + at;
                    wanted[held][p][c] = there ? target[to] : 0.0f;
                    float difference = wanted[held][p][c] - fminf(fmaxf(colour[c] * factor, 0.0f), 1.0f);
                    if (there) residual[to] = difference;
                    error[held][p] = fmaf(difference, difference, error[held][p]);
                }
                rest[held].r[p] = colour[0], rest[held].g[p] = colour[1], rest[held].b[p] = colour[2];
                rest[held].transmittance[p] = there ? 1.0f : -1.0f;
            }
        }
        for (int chunk = 0; chunk < chunks; ++chunk) {
            unsigned left = any_group(seen[chunk]);
            FOR_LANES if (lane == 0) hits[place * chunks + chunk] = left;
            for (; left; left &= left - 1) {
                int bit = first_bit(left);
                unsigned groups = groups_of(seen[chunk], bit);
                const Record* record = own + chunk * 32 + bit;
                float4 a = record->a, b = record->b;
                float colour[3] = {b.z, b.w, record->c.x}, grown[HELD];
                FOR_LANES {
                    Meeting met = meet(a, b, tile, lane);
                    grown[held] = 0.0f;
#pragma unroll
                    for (int g = 0; g < GROUPS; ++g) {
                        if (!(groups >> g & 1u)) continue;
#pragma unroll
                        for (int p = 2 * g; p < 2 * g + 2; ++p) {
                            float alpha = fminf(falloff(met, fmaf((float)p, met.step, met.v)), ALPHA_MAX);
                            float weight = put_behind(rest[held].transmittance[p], alpha);
                            float more = alpha * reciprocal(1.0f - alpha);  // all behind shows so much more
                            float behind = rest[held].transmittance[p] - end[held][p];
                            float covered = 1.0f - end[held][p] - weight + behind * more;
                            float factor = (1.0f + EPSILON) * reciprocal(covered + EPSILON), sum = 0.0f;
                            float *left_of[3] = {rest[held].r + p, rest[held].g + p, rest[held].b + p};
                            float whole[3] = {all[held].r[p], all[held].g[p], all[held].b[p]};
#pragma unroll
                            for (int c = 0; c < 3; ++c) {
                                *left_of[c] = fmaf(-weight, colour[c], *left_of[c]);
                                float without = whole[c] - weight * colour[c] + *left_of[c] * more;
                                float difference = fminf(fmaxf(without * factor, 0.0f), 1.0f) - wanted[held][p][c];
                                sum = fmaf(difference, difference, sum);
                            }
                            grown[held] += weight != 0.0f ? sum - error[held][p] : 0.0f;
                        }
                    }
                }
                float sum = warp_sum(grown, 1);
                FOR_LANES if (lane == 0) costs[place * count + chunk * 32 + bit] = sum;
            }
        }
    }
}

// Convolve planes [B, 3, s, s] with [1, 2, 1] / 4 at distance `reach`, both ways; edges repeat. Where a blob of
// the variance reached so far (pixels^2) would gain more than any before, the gain 4 pi variance |R|^2 and its
// standard deviation go to gain and width [B, s, s]; `begin` forgets what stood there.
KERNEL(256) smooth(const float* RESTRICT planes, float* RESTRICT out, float* RESTRICT gain, float* RESTRICT width,
                   int size, int reach, float variance, int begin) {
    FOR_BLOCKS for (int i = block.x * threads() + thread(); i < size * size; i += grid.x * threads()) {
        int y = i / size, x = i % size;
        int rows[3] = {max(y - reach, 0), y, min(y + reach, size - 1)};
        int columns[3] = {max(x - reach, 0), x, min(x + reach, size - 1)};
        float squares = 0.0f;
        for (int c = 0; c < 3; ++c) {
            const float* plane = planes + (3ll * block.y + c) * size * size;
            float line[3];
            for (int k = 0; k < 3; ++k)
                line[k] = 0.25f * (plane[rows[0] * size + columns[k]] + plane[rows[2] * size + columns[k]]) +
                          0.5f * plane[rows[1] * size + columns[k]];
            float value = 0.25f * (line[0] + line[2]) + 0.5f * line[1];
            out[(3ll * block.y + c) * size * size + i] = value;
            squares += value * value;
        }
        long long at = (long long)block.y * size * size + i;
        float value = (float)(4.0 * PI) * variance * squares;
        if (begin || value > gain[at]) {
            gain[at] = value;
            width[at] = sqrtf(variance);
        }
    }
}

// The thread with the largest value, the lowest index among equals; `values` and `indices` [threads] are shared.
DEVICE int best_of(float value, int index, float* values, int* indices) {
    values[thread()] = value;
    indices[thread()] = index;
    SYNC();
    for (int half = threads() / 2; half; half /= 2) {
        if (thread() < half) {
            float other = values[thread() + half];
            int at = indices[thread() + half];
            if (other > values[thread()] || (other == values[thread()] && at < indices[thread()])) {
                values[thread()] = other;
                indices[thread()] = at;
            }
        }
        SYNC();
    }
    int found = indices[0];
    SYNC();
    return found;
}

DEVICE void largest_of_row(const float* gain, int size, int y, float* row_gain, int* row_column) {
    float best = gain[y * size];
    int column = 0;
    for (int x = 1; x < size; ++x) {
        float value = gain[y * size + x];
        if (value > best) best = value, column = x;
    }
    row_gain[y] = best;
    row_column[y] = column;
}

// Permute rows of [9, N]: column i goes to place[i]; `row` and `place` [N] are shared.
DEVICE void bring_to_front(float* values, int count, float* row, const int* place) {
    for (int f = 0; f < 9; ++f) {
        for (int i = thread(); i < count; i += threads()) row[i] = values[f * count + i];
        SYNC();
        for (int i = thread(); i < count; i += threads()) values[f * count + place[i]] = row[i];
        SYNC();
    }
}

// Move the cheapest Gaussians to the best places, in front of all others, and write the records of the next
// canvas. At most `most` move; each must gain `MARGIN_OF_GAIN` times what it costs to leave.
KERNEL(256) relocate(float* RESTRICT params, float* RESTRICT first, float* RESTRICT second,
                     Record* RESTRICT records, const float* RESTRICT costs, const unsigned* RESTRICT hits,
                     float* RESTRICT gain, const float* RESTRICT width, const float* RESTRICT target, int count,
                     int size, int most, float scale, float next_scale) {
    FOR_BLOCKS {
        int columns = tiles_of(size), tiles = columns * columns, chunks = (count + 31) / 32, area = size * size;
        float* cost = (float*)shared_memory;          // [N]
        int* place = (int*)(cost + count);            // [N]
        float* row_gain = (float*)(place + count);    // [s]
        int* row_column = (int*)(row_gain + size);    // [s]
        float* values = (float*)(row_column + size);  // [threads]
        int* indices = (int*)(values + threads());    // [threads]
        int* moved = indices + threads();             // [most]
        long long at = (long long)block.y * count;
        float* own_gain = gain + (long long)block.y * area;
        const float* own_width = width + (long long)block.y * area;
        for (int i = thread(); i < count; i += threads()) {
            float sum;
            gather_sums(records[at + i], i, count, size, size, costs + (long long)block.y * tiles * count,
                        hits + (long long)block.y * tiles * chunks, &sum, 1);
            cost[i] = sum == sum ? sum : INFINITE;
        }
        for (int y = thread(); y < size; y += threads()) largest_of_row(own_gain, size, y, row_gain, row_column);
        SYNC();
        int moves = 0;
        for (; moves < most; ++moves) {
            float least = -INFINITE, largest = -1.0f;
            int cheapest = count, best_row = size;
            for (int i = thread(); i < count; i += threads())
                if (-cost[i] > least) least = -cost[i], cheapest = i;
            for (int y = thread(); y < size; y += threads())
                if (row_gain[y] > largest) largest = row_gain[y], best_row = y;
            int i = best_of(least, cheapest, values, indices), y = best_of(largest, best_row, values, indices);
            if (i >= count || y >= size) break;
            int x = row_column[y];
            float wide = own_width[y * size + x], top = row_gain[y];
            if (top <= MARGIN_OF_GAIN * fmaxf(cost[i], 0.0f)) break;
            SYNC();
            if (thread() == 0) {
                float log_scale = logf(wide / scale);
                float value[9] = {(x + 0.5f) / scale, (y + 0.5f) / scale, log_scale, 0.0f, log_scale,
                                  0.0f, 0.0f, 0.0f, NEW_LOGIT};
                for (int c = 0; c < 3; ++c) value[5 + c] = target[(3ll * block.y + c) * area + y * size + x];
                for (int f = 0; f < 9; ++f) {
                    long long to = 9 * at + (long long)f * count + i;
                    params[to] = value[f];
                    first[to] = second[to] = 0.0f;
                }
                moved[moves] = i;
                cost[i] = INFINITE;
            }
            float spread = SPREAD * wide;
            int reach = (int)ceilf(2.0f * spread), side = 2 * reach + 1;
            for (int k = thread(); k < side * side; k += threads()) {
                int v = y - reach + k / side, u = x - reach + k % side;
                if (v < 0 || v >= size || u < 0 || u >= size) continue;
                float d2 = (float)((v - y) * (v - y) + (u - x) * (u - x));
                own_gain[v * size + u] *= 1.0f - exponential(-0.5f * d2 / (spread * spread));
            }
            SYNC();
            for (int v = max(0, y - reach) + thread(); v <= min(size - 1, y + reach); v += threads())
                largest_of_row(own_gain, size, v, row_gain, row_column);
            SYNC();
        }
        for (int i = thread(); i < count; i += threads()) {
            int before = 0, mine = -1;
            for (int k = 0; k < moves; ++k) {
                before += moved[k] < i;
                if (moved[k] == i) mine = k;
            }
            place[i] = mine >= 0 ? mine : moves + i - before;
        }
        SYNC();
        bring_to_front(params + 9 * at, count, cost, place);
        bring_to_front(first + 9 * at, count, cost, place);
        bring_to_front(second + 9 * at, count, cost, place);
        for (int i = thread(); i < count; i += threads()) {
            float value[9];
            for (int f = 0; f < 9; ++f) value[f] = params[9 * at + (long long)f * count + i];
            records[at + i] = place_on_canvas(value, next_scale);
        }
    }
}
