// Chapter 1, the schedule: the path and its noise levels, as flux_edu/schedule.py.

// Eq. (1.1):  x_t = (1 - t) x_0 + t ε
export function interpolate(x_0, noise, t) {
  return x_0.map((x, i) => Math.fround(Math.fround(1 - t) * x) + Math.fround(t * noise[i]));
}

// Eq. (1.2):  μ(L) = m L + b through (256, 0.5) and (4096, 1.15)
export function get_lin_function(x1 = 256, y1 = 0.5, x2 = 4096, y2 = 1.15) {
  const m = (y2 - y1) / (x2 - x1);
  return (x) => m * x + (y1 - m * x1);
}

// Eq. (1.3):  t' = e^μ / (e^μ + (1/t - 1)^σ), with numerator and denominator times t^σ
export function time_shift(mu, sigma, t) {
  const a = Math.exp(mu) * t ** sigma;
  return a / (a + (1 - t) ** sigma);
}

// Eq. (1.5):  t_i = time_shift(μ(L), 1, 1 - i/N),  i = 0 … N
export function get_schedule(num_steps, image_seq_len, shift = true) {
  const mu = get_lin_function()(image_seq_len);
  const even = Array.from({ length: num_steps + 1 }, (_, i) => 1 - i / num_steps);
  return shift ? even.map((t) => time_shift(mu, 1, t)) : even;
}
