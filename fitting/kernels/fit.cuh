// A Gaussian's parameters, in the frame that a fit descends in; see fitting/optimise.py.
// BETA1 and the other constants of a fit come from the compiler's command line.

#pragma once

#include "raster.cuh"

DEVICE float exponential(float x) { return exp2f(1.4426950408889634f * x); }

// The record of parameters [9] on a canvas `scale` times as large as the full one.
DEVICE Record place_on_canvas(const float* value, float scale) {
    float l11 = exponential(value[2]), l22 = exponential(value[4]);
    float opacity = 1.0f / (1.0f + exponential(-value[8]));
    return make_record(value[0] * scale, value[1] * scale, l11 * scale, value[3] * l22 / l11, l22 * scale, value + 5,
                       opacity);
}

DEVICE float clamped(float value, float low, float high) { return fmaxf(fminf(value, high), low); }

// Move parameters [9] by a direction [9] in the Gaussian's own frame: centre + L e, L (I + E).
DEVICE void advance(float* value, const float* direction, float full) {
    float l11 = exponential(value[2]), l22 = exponential(value[4]), shear = value[3];
    float e1 = direction[0] * RATE_CENTRE, e2 = direction[1] * RATE_CENTRE;
    float e11 = direction[2] * RATE_SHAPE, e21 = direction[3] * RATE_SHAPE, e22 = direction[4] * RATE_SHAPE;
    value[0] = clamped(fmaf(l11, e1, value[0]), 0.0f, full);
    value[1] = clamped(fmaf(l22, fmaf(shear, e1, e2), value[1]), 0.0f, full);
    value[2] = fmaxf(value[2] + e11, MIN_LOG_SCALE);
    value[3] = fmaf(shear, exponential(e11 - e22), e21);
    value[4] = fmaxf(value[4] + e22, MIN_LOG_SCALE);
    for (int c = 5; c < 8; ++c) value[c] = fmaf(direction[c], RATE_COLOUR, value[c]);
    value[8] = clamped(fmaf(direction[8], RATE_OPACITY, value[8]), LOGIT_MIN, LOGIT_MAX);
}
