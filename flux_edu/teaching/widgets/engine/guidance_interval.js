// Guidance in a part of the steps only, as flux_edu/speed/guidance_interval.py.

// Eq. (18.5):  v(x, t) = v_w(x, t)  if low < t ≤ high,  else v_c(x, t)
export const guided_between = (guided, plain, low, high) => (x, t) => {
  return low < t && t <= high ? guided(x, t) : plain(x, t);
};
