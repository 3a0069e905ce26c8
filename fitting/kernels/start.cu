// Where a fit starts: pixels drawn by detail, round Gaussians as wide as their neighbours are apart.

#include "fit.cuh"

// A number in [0, 1): the n-th of splitmix64 (Steele, Lea and Flood 2014), n from 0.
DEVICE double uniform(uint64_t seed, int n) {
    uint64_t z = seed + (uint64_t)(n + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

DEVICE float light(const float* planes, int area, int at) {
    return planes[at] + planes[area + at] + planes[2 * area + at];
}

// The squared gradient of a pixel's brightness.
DEVICE double detail(const float* planes, int size, int y, int x) {
    int area = size * size;
    float dx = light(planes, area, y * size + min(x + 1, size - 1)) - light(planes, area, y * size + max(x - 1, 0));
    float dy = light(planes, area, min(y + 1, size - 1) * size + x) - light(planes, area, max(y - 1, 0) * size + x);
    return dx * dx + dy * dy;
}

// Cumulative sampling weight of the pixels [S, S], row by row; `rows` [S + 1] is shared.
DEVICE void accumulate(const float* planes, int size, double* cumulative, double* rows) {
    for (int y = thread(); y < size; y += threads()) {
        double sum = 0.0;
        for (int x = 0; x < size; ++x) sum += detail(planes, size, y, x);
        rows[y] = sum;
    }
    SYNC();
    if (thread() == 0) {
        double total = 0.0;
        for (int y = 0; y < size; ++y) total += rows[y];
        rows[size] = total > 0.0 ? DETAIL_SHARE / total : 0.0;
    }
    SYNC();
    double per_detail = rows[size], anywhere = (1.0 - DETAIL_SHARE) / ((double)size * size);
    for (int y = thread(); y < size; y += threads()) {
        double running = 0.0;
        for (int x = 0; x < size; ++x) {
            running += detail(planes, size, y, x) * per_detail + anywhere;
            cumulative[y * size + x] = running;
        }
        rows[y] = running;
    }
    SYNC();
    if (thread() == 0) {
        double before = 0.0;
        for (int y = 0; y < size; ++y) {
            double row = rows[y];
            rows[y] = before;
            before += row;
        }
    }
    SYNC();
    for (int i = thread(); i < size * size; i += threads()) cumulative[i] += rows[i / size];
    SYNC();
}

// The first index whose cumulative weight is above a value.
DEVICE int search(const double* cumulative, int length, double value) {
    int low = 0, high = length;
    while (low < high) {
        int middle = (low + high) / 2;
        if (cumulative[middle] > value) high = middle;
        else low = middle + 1;
    }
    return low;
}

// The first `count` distinct pixels that are drawn, into `chosen` [N]; `drawn` [threads + 1] too is shared.
DEVICE void draw(const double* cumulative, int area, uint64_t seed, int count, int* chosen, int* drawn) {
    double all = cumulative[area - 1];
    int have = 0;
    for (int round = 0; have < count; ++round) {
        int pixel = search(cumulative, area, uniform(seed, round * threads() + thread()) * all);
        int fresh = pixel < area;
        for (int k = 0; k < have; ++k) fresh &= chosen[k] != pixel;
        drawn[thread()] = pixel;
        SYNC();
        for (int k = 0; k < thread(); ++k) fresh &= drawn[k] != pixel;
        SYNC();
        drawn[thread()] = fresh;
        SYNC();
        int place = have;
        for (int k = 0; k < thread(); ++k) place += drawn[k];
        if (fresh && place < count) chosen[place] = pixel;
        if (thread() == threads() - 1) drawn[threads()] = place + fresh;
        SYNC();
        have = min(drawn[threads()], count);
        SYNC();
    }
}

// Mean distance of a chosen pixel to its three nearest neighbours among the chosen.
DEVICE double neighbour_distance(const int* chosen, int count, int n, int size) {
    int near[3] = {1 << 30, 1 << 30, 1 << 30}, neighbours = min(3, count - 1);
    for (int m = 0; m < count; ++m) {
        int dy = chosen[n] / size - chosen[m] / size, dx = chosen[n] % size - chosen[m] % size;
        int d2 = m == n ? 1 << 30 : dx * dx + dy * dy;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            int less = min(d2, near[k]);
            d2 = max(d2, near[k]);
            near[k] = less;
        }
    }
    double sum = 0.0;
    for (int k = 0; k < neighbours; ++k) sum += sqrt((double)near[k]) / neighbours;
    return neighbours ? sum : 0.5 * size;
}

// Starts of fits: parameters [B, 9, N] of planes [B, 3, S, S], finest in front; their records at the first
// canvas; and nothing known yet of the descent. `cumulative` [B, S, S] is scratch.
KERNEL(256) start(const float* RESTRICT planes, const uint64_t* RESTRICT seeds, double* RESTRICT cumulative,
                  float* RESTRICT params, float* RESTRICT first, float* RESTRICT second, Record* RESTRICT records,
                  float* RESTRICT best, int count, int size, float scale) {
    FOR_BLOCKS {
        double* distances = (double*)shared_memory;  // [max(N, S + 1)]: rows of the sum, then distances
        int* chosen = (int*)(distances + max(count, size + 1));  // [N]
        int* drawn = chosen + count;                              // [threads + 1]
        const float* image = planes + 3ll * block.y * size * size;
        double* sums = cumulative + (long long)block.y * size * size;
        accumulate(image, size, sums, distances);
        draw(sums, size * size, seeds[block.y], count, chosen, drawn);
        for (int i = thread(); i < count; i += threads()) distances[i] = neighbour_distance(chosen, count, i, size);
        SYNC();
        for (int i = thread(); i < count; i += threads()) {
            int rank = 0;
            for (int k = 0; k < count; ++k)
                rank += distances[k] < distances[i] || (distances[k] == distances[i] && k < i);
            int pixel = chosen[i], area = size * size;
            float wide = logf((float)fmin(fmax(SCALE_PER_DISTANCE * distances[i], 0.5), 0.25 * size));
            float value[9] = {pixel % size + 0.5f, pixel / size + 0.5f, wide, 0.0f, wide, image[pixel],
                              image[area + pixel], image[2 * area + pixel], START_LOGIT};
            for (int f = 0; f < 9; ++f) {
                long long at = (9ll * block.y + f) * count + rank;
                params[at] = value[f];
                first[at] = second[at] = 0.0f;
            }
            records[(long long)block.y * count + rank] = place_on_canvas(value, scale);
        }
        if (thread() == 0) best[block.y] = INFINITE;
        SYNC();
    }
}
