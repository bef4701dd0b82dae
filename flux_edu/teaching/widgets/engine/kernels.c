// The loops of a tiny FLUX that take the time, for WebAssembly with vectors of four float32
// numbers.
//
// There is no allocator and no library: kernels.js lays out the memory and passes addresses. A
// matrix is rows of numbers, a row every `ld` of them; every row begins at a multiple of 8 numbers
// and is padded to one, so that a loop may always take 4 or 8 at once.
#include <wasm_simd128.h>

typedef float f32;
typedef v128_t f32x4;

#define EXPORT(name) __attribute__((export_name(#name))) void name
#define load wasm_v128_load
#define store wasm_v128_store
#define splat wasm_f32x4_splat
#define add wasm_f32x4_add
#define sub wasm_f32x4_sub
#define mul wasm_f32x4_mul

#ifdef __wasm_relaxed_simd__ // one rounding instead of two, where a browser has it
#define multiply_add(a, b, c) wasm_f32x4_relaxed_madd(a, b, c)
#else
#define multiply_add(a, b, c) add(mul(a, b), c)
#endif

static inline f32 sum(f32x4 x) {
  return wasm_f32x4_extract_lane(x, 0) + wasm_f32x4_extract_lane(x, 1) +
         wasm_f32x4_extract_lane(x, 2) + wasm_f32x4_extract_lane(x, 3);
}

// ---------------------------------------------------------------- products of matrices

// Wᵀ in panels of 8 columns, [N/8][K][8], zeros beyond N: `gemm` reads it from front to back.
// The number for output n and input k lies at W[n * per_n + k * per_k].
EXPORT(pack)(const f32 *W, int per_n, int per_k, f32 *panels, int N, int K) {
  for (int n = 0; n < N; n += 8)
    for (int k = 0; k < K; k++)
      for (int j = 0; j < 8; j++)
        *panels++ = n + j < N ? W[(n + j) * per_n + k * per_k] : 0;
}

// `rows` rows (1 or 4) times one panel, 8 numbers of output a row, kept in registers
static inline void tile(int rows, const f32 *A, int lda, const f32 *panel, const f32 *bias, f32 *C,
                        int ldc, int K, int sum_up) {
  f32x4 c[4][2];
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < 2; j++) {
      c[i][j] = bias ? load(bias + 4 * j) : splat(0);
      if (sum_up)
        c[i][j] = add(c[i][j], load(C + i * ldc + 4 * j));
    }
  for (int k = 0; k < K; k++, panel += 8) {
    f32x4 w0 = load(panel), w1 = load(panel + 4);
    for (int i = 0; i < rows; i++) {
      f32x4 a = wasm_v128_load32_splat(A + i * lda + k);
      c[i][0] = multiply_add(a, w0, c[i][0]);
      c[i][1] = multiply_add(a, w1, c[i][1]);
    }
  }
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < 2; j++)
      store(C + i * ldc + 4 * j, c[i][j]);
}

// C = A Wᵀ + bias, or C += that: M rows of K numbers become M rows of N. bias may be 0.
EXPORT(gemm)(const f32 *A, int lda, const f32 *panels, const f32 *bias, f32 *C, int ldc, int M,
             int K, int N, int sum_up) {
  const int BLOCK = 96; // so many rows stay in the cache while all panels pass
  for (int from = 0; from < M; from += BLOCK) {
    int to = from + BLOCK < M ? from + BLOCK : M;
    for (int n = 0; n < N; n += 8) {
      const f32 *panel = panels + n * K, *b = bias ? bias + n : 0;
      int m = from;
      for (; m + 4 <= to; m += 4)
        tile(4, A + m * lda, lda, panel, b, C + m * ldc + n, ldc, K, sum_up);
      for (; m < to; m++)
        tile(1, A + m * lda, lda, panel, b, C + m * ldc + n, ldc, K, sum_up);
    }
  }
}

// ---------------------------------------------------------------- one number at a time

// eˣ to a relative 1e-7: 2ⁿ eʳ with |r| ≤ ln 2 / 2, eʳ by the polynomial of Cephes' expf
static inline f32x4 exponential(f32x4 x) {
  x = wasm_f32x4_pmin(wasm_f32x4_pmax(x, splat(-87)), splat(88));
  f32x4 n = wasm_f32x4_nearest(mul(x, splat(1.44269504088896341f)));
  f32x4 r = sub(sub(x, mul(n, splat(0.693359375f))), mul(n, splat(-2.12194440e-4f)));
  const f32 c[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                   4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
  f32x4 p = splat(c[0]);
  for (int i = 1; i < 6; i++)
    p = add(mul(p, r), splat(c[i]));
  p = add(add(mul(mul(p, r), r), r), splat(1));
  f32x4 power = wasm_i32x4_add(wasm_i32x4_trunc_sat_f32x4(n), wasm_i32x4_splat(127));
  return mul(p, wasm_i32x4_shl(power, 23));
}
static inline f32x4 sigmoid(f32x4 x) {
  return wasm_f32x4_div(splat(1), add(splat(1), exponential(wasm_f32x4_neg(x))));
}

// x ← x σ(a x + b x³): SiLU for (1, 0), GELU's tanh form for 2 √(2/π) (1, 0.044715)
EXPORT(sigmoid_gate)(f32 *x, int ld, int rows, int n, f32 a, f32 b) {
  for (int m = 0; m < rows; m++, x += ld)
    for (int i = 0; i < n; i += 4) {
      f32x4 v = load(x + i), inside = mul(v, add(splat(a), mul(splat(b), mul(v, v))));
      store(x + i, mul(v, sigmoid(inside)));
    }
}

// x ← x + g ⊙ y, with a number of g for every column
EXPORT(add_gated)(f32 *x, int ldx, const f32 *g, const f32 *y, int ldy, int rows, int n) {
  for (int m = 0; m < rows; m++, x += ldx, y += ldy)
    for (int i = 0; i < n; i += 4)
      store(x + i, multiply_add(load(g + i), load(y + i), load(x + i)));
}

// ---------------------------------------------------------------- rows of numbers

// y = (one + scale) ⊙ (x - mean) / √(variance + ε) + shift, over each row
EXPORT(layer_norm)(const f32 *x, int ldx, f32 *y, int ldy, const f32 *scale, const f32 *shift,
                   f32 one, f32 eps, int rows, int n) {
  for (int m = 0; m < rows; m++, x += ldx, y += ldy) {
    f32x4 total = splat(0), squares = splat(0);
    for (int i = 0; i < n; i += 4)
      total = add(total, load(x + i));
    f32x4 mean = splat(sum(total) / n);
    for (int i = 0; i < n; i += 4) {
      f32x4 d = sub(load(x + i), mean);
      squares = add(squares, mul(d, d));
    }
    f32x4 r = splat(1 / __builtin_sqrtf(sum(squares) / n + eps));
    for (int i = 0; i < n; i += 4) {
      f32x4 normed = mul(sub(load(x + i), mean), r);
      store(y + i, add(mul(normed, add(splat(one), load(scale + i))), load(shift + i)));
    }
  }
}

// y = scale ⊙ x / √(mean x² + ε), over each head of n numbers; the heads lie side by side
EXPORT(rms_norm)(const f32 *x, int ldx, f32 *y, int ldy, const f32 *scale, f32 eps, int rows,
                 int heads, int n) {
  for (int m = 0; m < rows; m++, x += ldx, y += ldy)
    for (int h = 0; h < heads * n; h += n) {
      f32x4 squares = splat(0);
      for (int i = h; i < h + n; i += 4)
        squares = add(squares, mul(load(x + i), load(x + i)));
      f32x4 r = splat(1 / __builtin_sqrtf(sum(squares) / n + eps));
      for (int i = 0; i < n; i += 4)
        store(y + h + i, mul(mul(load(x + h + i), r), load(scale + i)));
    }
}

// Adjacent pairs of every head of n numbers turned by their row's angles; R holds cos, sin a pair
EXPORT(rotate)(f32 *x, int ldx, const f32 *R, int rows, int heads, int n) {
  const f32x4 sign = wasm_f32x4_make(-1, 1, -1, 1);
  for (int m = 0; m < rows; m++, x += ldx, R += n)
    for (int h = 0; h < heads * n; h += n)
      for (int i = 0; i < n; i += 4) {
        f32x4 v = load(x + h + i), r = load(R + i);
        f32x4 cos = wasm_i32x4_shuffle(r, r, 0, 0, 2, 2),
              sin = wasm_i32x4_shuffle(r, r, 1, 1, 3, 3);
        f32x4 crossed = wasm_i32x4_shuffle(v, v, 1, 0, 3, 2);
        store(x + h + i, add(mul(v, cos), mul(crossed, mul(sin, sign))));
      }
}

// x ← softmax of factor · x over each row's first n numbers; the padding becomes 0
EXPORT(softmax)(f32 *x, int ld, int rows, int n, f32 factor) {
  for (int m = 0; m < rows; m++, x += ld) {
    f32 largest = x[0], total = 0;
    for (int i = 1; i < n; i++)
      largest = x[i] > largest ? x[i] : largest;
    for (int i = 0; i < n; i += 4)
      store(x + i, exponential(mul(sub(load(x + i), splat(largest)), splat(factor))));
    for (int i = n; i < ld; i++)
      x[i] = 0;
    for (int i = 0; i < n; i++)
      total += x[i];
    for (int i = 0; i < n; i += 4)
      store(x + i, mul(load(x + i), splat(1 / total)));
  }
}

// ---------------------------------------------------------------- feature maps
//
// h rows of w places of c channels, with an empty place at both ends of a row and an empty row
// above and below, which are a convolution's padding: place (row, column) begins at
// ((row + 1) (w + 2) + column + 1) c.

// y = γ ⊙ (x - mean) / √(variance + 1e-6) + β over groups of channels, and SiLU of it if asked
EXPORT(group_norm)(const f32 *x, f32 *y, const f32 *gamma, const f32 *beta, int groups, int h,
                   int w, int c, int silu) {
  int line = (w + 2) * c, n = c / groups;
  for (int g = 0; g < groups; g++) {
    int first = line + c + g * n;
    double total = 0, squares = 0;
    for (int row = 0; row < h; row++) {
      f32x4 s = splat(0), q = splat(0);
      const f32 *p = x + first + row * line;
      for (int k = 0; k < w; k++, p += c)
        for (int i = 0; i < n; i += 4) {
          s = add(s, load(p + i));
          q = add(q, mul(load(p + i), load(p + i)));
        }
      total += sum(s);
      squares += sum(q);
    }
    double mean = total / h / w / n, variance = squares / h / w / n - mean * mean;
    f32x4 r = splat(1 / __builtin_sqrt((variance > 0 ? variance : 0) + 1e-6));
    for (int i = 0; i < n; i += 4) {
      f32x4 factor = mul(load(gamma + g * n + i), r);
      f32x4 offset = sub(load(beta + g * n + i), mul(factor, splat(mean)));
      for (int row = 0; row < h; row++) {
        const f32 *from = x + first + i + row * line;
        f32 *to = y + first + i + row * line;
        for (int k = 0; k < w; k++, from += c, to += c) {
          f32x4 v = add(mul(load(from), factor), offset);
          store(to, silu ? mul(v, sigmoid(v)) : v);
        }
      }
    }
  }
}

// Twice the size: every place four times
EXPORT(upsample)(const f32 *x, f32 *y, int h, int w, int c) {
  for (int row = 0; row < 2 * h; row++)
    for (int column = 0; column < 2 * w; column++) {
      const f32 *from = x + ((row / 2 + 1) * (w + 2) + column / 2 + 1) * c;
      f32 *to = y + ((row + 1) * (2 * w + 2) + column + 1) * c;
      for (int i = 0; i < c; i += 4)
        store(to + i, load(from + i));
    }
}

// A 3 × 3 convolution by Winograd's F(2 × 2, 3 × 3), Lavin & Gray 2016: four places take 16
// products of channels instead of 36. y = conv(x) + bias, or y += that; h and w are even.
//
// A tile of 4 × 4 places d becomes Bᵀ d B, each of its 16 numbers is a matrix product of its own
// with the filters that autoencoder.js has brought into the same form, and Aᵀ m A are 2 × 2 places
// of y. 64 tiles at a time go through V and M, scratch of 16 · 64 · cin and 16 · 64 · cout numbers.
EXPORT(winograd)(const f32 *x, const f32 *filters, const f32 *bias, f32 *y, int h, int w, int cin,
                 int cout, int sum_up, f32 *V, f32 *M) {
  int line_in = (w + 2) * cin, line_out = (w + 2) * cout, tiles = h / 2 * (w / 2);
  for (int from = 0; from < tiles; from += 64) {
    int T = from + 64 < tiles ? 64 : tiles - from;
    for (int t = 0; t < T; t++) {
      int row = 2 * ((from + t) / (w / 2)), column = 2 * ((from + t) % (w / 2));
      for (int c = 0; c < cin; c += 4) {
        const f32 *p = x + row * line_in + column * cin + c;
        f32x4 m[4][4];
        for (int j = 0; j < 4; j++, p += cin) {
          f32x4 d0 = load(p), d1 = load(p + line_in);
          f32x4 d2 = load(p + 2 * line_in), d3 = load(p + 3 * line_in);
          m[0][j] = sub(d0, d2), m[1][j] = add(d1, d2), m[2][j] = sub(d2, d1),
          m[3][j] = sub(d1, d3);
        }
        for (int i = 0; i < 4; i++) {
          f32 *o = V + (4 * i * T + t) * cin + c;
          store(o, sub(m[i][0], m[i][2]));
          store(o + T * cin, add(m[i][1], m[i][2]));
          store(o + 2 * T * cin, sub(m[i][2], m[i][1]));
          store(o + 3 * T * cin, sub(m[i][1], m[i][3]));
        }
      }
    }
    for (int p = 0; p < 16; p++)
      gemm(V + p * T * cin, cin, filters + p * cin * cout, 0, M + p * T * cout, cout, T, cin, cout,
           0);
    for (int t = 0; t < T; t++) {
      int row = 2 * ((from + t) / (w / 2)), column = 2 * ((from + t) % (w / 2));
      for (int c = 0; c < cout; c += 4) {
        f32x4 m[2][4], b = load(bias + c);
        for (int j = 0; j < 4; j++) {
          const f32 *p = M + (j * T + t) * cout + c;
          f32x4 m0 = load(p), m1 = load(p + 4 * T * cout);
          f32x4 m2 = load(p + 8 * T * cout), m3 = load(p + 12 * T * cout);
          m[0][j] = add(add(m0, m1), m2), m[1][j] = sub(sub(m1, m2), m3);
        }
        for (int i = 0; i < 2; i++) {
          f32 *o = y + (row + 1 + i) * line_out + (column + 1) * cout + c;
          f32x4 left = add(b, add(add(m[i][0], m[i][1]), m[i][2]));
          f32x4 right = add(b, sub(sub(m[i][1], m[i][2]), m[i][3]));
          store(o, sum_up ? add(load(o), left) : left);
          store(o + cout, sum_up ? add(load(o + cout), right) : right);
        }
      }
    }
  }
}
