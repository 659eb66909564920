;; What the page computes most often, in WebAssembly with SIMD: instructions that work on four numbers at once. First the
;; matrix product y = x W, then GELU, softmax, the norm and a sum.
;;
;; x [T, K], y [T, N]: rows padded to a multiple of 8 numbers, and T to a multiple of 4 rows.
;; W: in strips of 8 columns, [N/8, K, 8], so that it is read from beginning to end.
;; x, w, y: addresses in the page's memory, in bytes; a number (float32) has 4 of them, a vector (v128) has 16.
;;
;; A block of y, 4 rows of 8 columns, is held in 8 vectors while k runs: 2 loads of W and 4 of x then serve 64 operations.
;; k runs in pieces of 64, whose sums are added up: a long sum in float32 loses digits.
;;
;; Assembled by `wat2wasm web/product.wat -o web/product.wasm` (wabt). The same in JavaScript, for browsers without SIMD,
;; is `plain` in model.js.
(module
  (import "page" "memory" (memory 1))
  (func (export "multiply")
    (param $x i32) (param $w i32) (param $y i32) (param $T i32) (param $K i32) (param $N i32)
    (local $x_row i32) (local $y_row i32) (local $t i32) (local $k i32) (local $out i32)
    (local $x0 i32) (local $x1 i32) (local $x2 i32) (local $x3 i32) (local $strip i32) (local $end i32)
    (local $left v128) (local $right v128) (local $number v128)
    (local $a0 v128) (local $a1 v128) (local $a2 v128) (local $a3 v128)  ;; columns 0 to 3 of the block, a piece's sum
    (local $b0 v128) (local $b1 v128) (local $b2 v128) (local $b3 v128)  ;; columns 4 to 7
    (local $A0 v128) (local $A1 v128) (local $A2 v128) (local $A3 v128)  ;; the same, of all pieces so far
    (local $B0 v128) (local $B1 v128) (local $B2 v128) (local $B3 v128)
    ;; bytes in a row of x and of y: 4 * K and 4 * N, rounded up to a multiple of 32
    (local.set $x_row (i32.and (i32.add (i32.shl (local.get $K) (i32.const 2)) (i32.const 31)) (i32.const -32)))
    (local.set $y_row (i32.and (i32.add (i32.shl (local.get $N) (i32.const 2)) (i32.const 31)) (i32.const -32)))
    (loop $strips
      (local.set $t (i32.const 0))
      (local.set $out (local.get $y))
      (loop $rows
        (local.set $x0 (i32.add (local.get $x) (i32.mul (local.get $t) (local.get $x_row))))
        (local.set $x1 (i32.add (local.get $x0) (local.get $x_row)))
        (local.set $x2 (i32.add (local.get $x1) (local.get $x_row)))
        (local.set $x3 (i32.add (local.get $x2) (local.get $x_row)))
        (local.set $A0 (v128.const i32x4 0 0 0 0)) (local.set $B0 (v128.const i32x4 0 0 0 0))
        (local.set $A1 (v128.const i32x4 0 0 0 0)) (local.set $B1 (v128.const i32x4 0 0 0 0))
        (local.set $A2 (v128.const i32x4 0 0 0 0)) (local.set $B2 (v128.const i32x4 0 0 0 0))
        (local.set $A3 (v128.const i32x4 0 0 0 0)) (local.set $B3 (v128.const i32x4 0 0 0 0))
        (local.set $strip (local.get $w))
        (local.set $k (local.get $K))
        (loop $pieces
          (local.set $a0 (v128.const i32x4 0 0 0 0)) (local.set $b0 (v128.const i32x4 0 0 0 0))
          (local.set $a1 (v128.const i32x4 0 0 0 0)) (local.set $b1 (v128.const i32x4 0 0 0 0))
          (local.set $a2 (v128.const i32x4 0 0 0 0)) (local.set $b2 (v128.const i32x4 0 0 0 0))
          (local.set $a3 (v128.const i32x4 0 0 0 0)) (local.set $b3 (v128.const i32x4 0 0 0 0))
          (local.set $end (i32.add (local.get $strip) (i32.shl
            (select (local.get $k) (i32.const 64) (i32.lt_s (local.get $k) (i32.const 64))) (i32.const 5))))
          (loop $sum
            (local.set $left (v128.load (local.get $strip)))
            (local.set $right (v128.load offset=16 (local.get $strip)))
            (local.set $number (v128.load32_splat (local.get $x0)))
            (local.set $a0 (f32x4.add (local.get $a0) (f32x4.mul (local.get $number) (local.get $left))))
            (local.set $b0 (f32x4.add (local.get $b0) (f32x4.mul (local.get $number) (local.get $right))))
            (local.set $number (v128.load32_splat (local.get $x1)))
            (local.set $a1 (f32x4.add (local.get $a1) (f32x4.mul (local.get $number) (local.get $left))))
            (local.set $b1 (f32x4.add (local.get $b1) (f32x4.mul (local.get $number) (local.get $right))))
            (local.set $number (v128.load32_splat (local.get $x2)))
            (local.set $a2 (f32x4.add (local.get $a2) (f32x4.mul (local.get $number) (local.get $left))))
            (local.set $b2 (f32x4.add (local.get $b2) (f32x4.mul (local.get $number) (local.get $right))))
            (local.set $number (v128.load32_splat (local.get $x3)))
            (local.set $a3 (f32x4.add (local.get $a3) (f32x4.mul (local.get $number) (local.get $left))))
            (local.set $b3 (f32x4.add (local.get $b3) (f32x4.mul (local.get $number) (local.get $right))))
            (local.set $x0 (i32.add (local.get $x0) (i32.const 4)))
            (local.set $x1 (i32.add (local.get $x1) (i32.const 4)))
            (local.set $x2 (i32.add (local.get $x2) (i32.const 4)))
            (local.set $x3 (i32.add (local.get $x3) (i32.const 4)))
            (local.set $strip (i32.add (local.get $strip) (i32.const 32)))
            (br_if $sum (i32.lt_u (local.get $strip) (local.get $end))))
          (local.set $A0 (f32x4.add (local.get $A0) (local.get $a0)))
          (local.set $A1 (f32x4.add (local.get $A1) (local.get $a1)))
          (local.set $A2 (f32x4.add (local.get $A2) (local.get $a2)))
          (local.set $A3 (f32x4.add (local.get $A3) (local.get $a3)))
          (local.set $B0 (f32x4.add (local.get $B0) (local.get $b0)))
          (local.set $B1 (f32x4.add (local.get $B1) (local.get $b1)))
          (local.set $B2 (f32x4.add (local.get $B2) (local.get $b2)))
          (local.set $B3 (f32x4.add (local.get $B3) (local.get $b3)))
          (br_if $pieces (i32.gt_s (local.tee $k (i32.sub (local.get $k) (i32.const 64))) (i32.const 0))))
        (v128.store (local.get $out) (local.get $A0)) (v128.store offset=16 (local.get $out) (local.get $B0))
        (local.set $out (i32.add (local.get $out) (local.get $y_row)))
        (v128.store (local.get $out) (local.get $A1)) (v128.store offset=16 (local.get $out) (local.get $B1))
        (local.set $out (i32.add (local.get $out) (local.get $y_row)))
        (v128.store (local.get $out) (local.get $A2)) (v128.store offset=16 (local.get $out) (local.get $B2))
        (local.set $out (i32.add (local.get $out) (local.get $y_row)))
        (v128.store (local.get $out) (local.get $A3)) (v128.store offset=16 (local.get $out) (local.get $B3))
        (local.set $out (i32.add (local.get $out) (local.get $y_row)))
        (br_if $rows (i32.lt_s (local.tee $t (i32.add (local.get $t) (i32.const 4))) (local.get $T))))
      (local.set $w (i32.add (local.get $w) (i32.shl (local.get $K) (i32.const 5))))
      (local.set $y (i32.add (local.get $y) (i32.const 32)))
      (br_if $strips (i32.gt_s (local.tee $N (i32.sub (local.get $N) (i32.const 8))) (i32.const 0)))))

  ;; e^x of four numbers, to 1 or 2 units of the last digit (Cephes): x = n ln 2 + r, so e^x = 2^n e^r, and e^r is a
  ;; polynomial. Below -80 it is 0.
  (func $exp (param $x v128) (result v128)
    (local $n v128) (local $r v128) (local $p v128)
    (local.set $n (f32x4.nearest (f32x4.mul (local.get $x) (v128.const f32x4 1.44269504 1.44269504 1.44269504 1.44269504))))
    (local.set $r (f32x4.sub
      (f32x4.sub (local.get $x) (f32x4.mul (local.get $n) (v128.const f32x4 0.693359375 0.693359375 0.693359375 0.693359375)))
      (f32x4.mul (local.get $n) (v128.const f32x4 -2.12194440e-4 -2.12194440e-4 -2.12194440e-4 -2.12194440e-4))))
    (local.set $p (v128.const f32x4 1.9875691500e-4 1.9875691500e-4 1.9875691500e-4 1.9875691500e-4))
    (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $r)) (v128.const f32x4 1.3981999507e-3 1.3981999507e-3 1.3981999507e-3 1.3981999507e-3)))
    (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $r)) (v128.const f32x4 8.3334519073e-3 8.3334519073e-3 8.3334519073e-3 8.3334519073e-3)))
    (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $r)) (v128.const f32x4 4.1665795894e-2 4.1665795894e-2 4.1665795894e-2 4.1665795894e-2)))
    (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $r)) (v128.const f32x4 1.6666665459e-1 1.6666665459e-1 1.6666665459e-1 1.6666665459e-1)))
    (local.set $p (f32x4.add (f32x4.mul (local.get $p) (local.get $r)) (v128.const f32x4 5.0000001201e-1 5.0000001201e-1 5.0000001201e-1 5.0000001201e-1)))
    (local.set $p (f32x4.add (f32x4.add (f32x4.mul (f32x4.mul (local.get $p) (local.get $r)) (local.get $r)) (local.get $r))
      (v128.const f32x4 1 1 1 1)))
    (v128.and  ;; 2^n: n + 127 are the bits of the exponent
      (f32x4.mul (local.get $p)
        (i32x4.shl (i32x4.add (i32x4.trunc_sat_f32x4_s (local.get $n)) (v128.const i32x4 127 127 127 127)) (i32.const 23)))
      (f32x4.gt (local.get $x) (v128.const f32x4 -80 -80 -80 -80))))

  ;; The sum of the four numbers of a vector
  (func $total (param $v v128) (result f32)
    (f32.add
      (f32.add (f32x4.extract_lane 0 (local.get $v)) (f32x4.extract_lane 1 (local.get $v)))
      (f32.add (f32x4.extract_lane 2 (local.get $v)) (f32x4.extract_lane 3 (local.get $v)))))

  ;; GELU in place: x times the probability that a normal number is below x, (1 + erf(x / sqrt 2)) / 2. erf to 1.5e-7 is
  ;; 1 - (a polynomial of t = 1 / (1 + 0.3275911 |z|)) e^(-z^2) (Abramowitz and Stegun, 7.1.26)
  (func (export "gelu") (param $x i32) (param $count i32)
    (local $end i32) (local $v v128) (local $z v128) (local $t v128) (local $s v128)
    (local.set $end (i32.add (local.get $x) (i32.shl (local.get $count) (i32.const 2))))
    (loop $four
      (local.set $v (v128.load (local.get $x)))
      (local.set $z (f32x4.abs (f32x4.mul (local.get $v) (v128.const f32x4 0.70710678 0.70710678 0.70710678 0.70710678))))
      (local.set $t (f32x4.div (v128.const f32x4 1 1 1 1) (f32x4.add (v128.const f32x4 1 1 1 1)
        (f32x4.mul (local.get $z) (v128.const f32x4 0.3275911 0.3275911 0.3275911 0.3275911)))))
      (local.set $s (v128.const f32x4 1.061405429 1.061405429 1.061405429 1.061405429))
      (local.set $s (f32x4.add (f32x4.mul (local.get $s) (local.get $t)) (v128.const f32x4 -1.453152027 -1.453152027 -1.453152027 -1.453152027)))
      (local.set $s (f32x4.add (f32x4.mul (local.get $s) (local.get $t)) (v128.const f32x4 1.421413741 1.421413741 1.421413741 1.421413741)))
      (local.set $s (f32x4.add (f32x4.mul (local.get $s) (local.get $t)) (v128.const f32x4 -0.284496736 -0.284496736 -0.284496736 -0.284496736)))
      (local.set $s (f32x4.add (f32x4.mul (local.get $s) (local.get $t)) (v128.const f32x4 0.254829592 0.254829592 0.254829592 0.254829592)))
      (local.set $s (f32x4.mul (f32x4.mul (local.get $s) (local.get $t)) (call $exp (f32x4.neg (f32x4.mul (local.get $z) (local.get $z))))))
      ;; s is 1 - erf |z|: half of it is the probability for a negative x, and 1 less half of it for a positive one
      (local.set $s (f32x4.mul (local.get $s) (v128.const f32x4 0.5 0.5 0.5 0.5)))
      (local.set $s (v128.bitselect (local.get $s) (f32x4.sub (v128.const f32x4 1 1 1 1) (local.get $s))
        (f32x4.lt (local.get $v) (v128.const f32x4 0 0 0 0))))
      (v128.store (local.get $x) (f32x4.mul (local.get $v) (local.get $s)))
      (br_if $four (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 16))) (local.get $end)))))

  ;; Softmax of x * scale, in place, over T rows of S numbers: over the first `seen` of a row, and `more` more of each next
  ;; row (1 in a GPT, 0 where all is seen). The others get 0.
  (func (export "softmax") (param $x i32) (param $T i32) (param $S i32) (param $seen i32) (param $more i32) (param $scale f32)
    (local $row i32) (local $at i32) (local $end i32) (local $v v128) (local $sum v128) (local $scales v128)
    (local.set $row (i32.and (i32.add (i32.shl (local.get $S) (i32.const 2)) (i32.const 31)) (i32.const -32)))
    (local.set $scales (f32x4.splat (local.get $scale)))
    (loop $rows
      (local.set $end (i32.add (local.get $x) (local.get $row)))
      (local.set $at (i32.add (local.get $x) (i32.shl (local.get $seen) (i32.const 2))))
      (block $none (loop $unseen
        (br_if $none (i32.ge_u (local.get $at) (local.get $end)))
        (f32.store (local.get $at) (f32.const -3e38))
        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (br $unseen)))
      (local.set $v (v128.const f32x4 -3e38 -3e38 -3e38 -3e38))
      (local.set $at (local.get $x))
      (loop $highest
        (local.set $v (f32x4.pmax (local.get $v) (v128.load (local.get $at))))
        (br_if $highest (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 16))) (local.get $end))))
      (local.set $v (f32x4.splat (f32.max
        (f32.max (f32x4.extract_lane 0 (local.get $v)) (f32x4.extract_lane 1 (local.get $v)))
        (f32.max (f32x4.extract_lane 2 (local.get $v)) (f32x4.extract_lane 3 (local.get $v))))))
      (local.set $sum (v128.const f32x4 0 0 0 0))
      (local.set $at (local.get $x))
      (loop $powers
        (v128.store (local.get $at)
          (call $exp (f32x4.mul (f32x4.sub (v128.load (local.get $at)) (local.get $v)) (local.get $scales))))
        (local.set $sum (f32x4.add (local.get $sum) (v128.load (local.get $at))))
        (br_if $powers (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 16))) (local.get $end))))
      (local.set $sum (f32x4.splat (call $total (local.get $sum))))
      (local.set $at (local.get $x))
      (loop $shares
        (v128.store (local.get $at) (f32x4.div (v128.load (local.get $at)) (local.get $sum)))
        (br_if $shares (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 16))) (local.get $end))))
      (local.set $x (local.get $end))
      (local.set $seen (i32.add (local.get $seen) (local.get $more)))
      (br_if $rows (i32.gt_s (local.tee $T (i32.sub (local.get $T) (i32.const 1))) (i32.const 0)))))

  ;; T rows x [T, D] -> y [T, D], each with mean 0 and deviation 1, times scale [D]. The numbers that pad a row are 0.
  (func (export "norm") (param $x i32) (param $T i32) (param $D i32) (param $scale i32) (param $y i32)
    (local $row i32) (local $at i32) (local $v v128) (local $sum v128) (local $mean f32) (local $variance f32)
    (local.set $row (i32.and (i32.add (i32.shl (local.get $D) (i32.const 2)) (i32.const 31)) (i32.const -32)))
    (loop $rows
      (local.set $sum (v128.const f32x4 0 0 0 0))
      (local.set $at (i32.const 0))
      (loop $means
        (local.set $sum (f32x4.add (local.get $sum) (v128.load (i32.add (local.get $x) (local.get $at)))))
        (br_if $means (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 16))) (local.get $row))))
      (local.set $mean (f32.div (call $total (local.get $sum)) (f32.convert_i32_s (local.get $D))))
      (local.set $sum (v128.const f32x4 0 0 0 0))
      (local.set $at (i32.const 0))
      (loop $squares
        (local.set $v (f32x4.sub (v128.load (i32.add (local.get $x) (local.get $at))) (f32x4.splat (local.get $mean))))
        (local.set $sum (f32x4.add (local.get $sum) (f32x4.mul (local.get $v) (local.get $v))))
        (br_if $squares (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 16))) (local.get $row))))
      (local.set $variance (f32.div  ;; less what the padding has added: its distance from the mean
        (f32.sub (call $total (local.get $sum)) (f32.mul (f32.mul (local.get $mean) (local.get $mean))
          (f32.convert_i32_s (i32.sub (i32.shr_u (local.get $row) (i32.const 2)) (local.get $D)))))
        (f32.convert_i32_s (local.get $D))))
      (local.set $sum (f32x4.splat (f32.sqrt (f32.add (local.get $variance) (f32.const 1e-5)))))
      (local.set $at (i32.const 0))
      (loop $scaled
        (v128.store (i32.add (local.get $y) (local.get $at)) (f32x4.mul
          (f32x4.div (f32x4.sub (v128.load (i32.add (local.get $x) (local.get $at))) (f32x4.splat (local.get $mean))) (local.get $sum))
          (v128.load (i32.add (local.get $scale) (local.get $at)))))
        (br_if $scaled (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 16))) (local.get $row))))
      (local.set $x (i32.add (local.get $x) (local.get $row)))
      (local.set $y (i32.add (local.get $y) (local.get $row)))
      (br_if $rows (i32.gt_s (local.tee $T (i32.sub (local.get $T) (i32.const 1))) (i32.const 0)))))

  ;; x + update, in place, of `count` numbers
  (func (export "add") (param $x i32) (param $update i32) (param $count i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $x) (i32.shl (local.get $count) (i32.const 2))))
    (loop $four
      (v128.store (local.get $x) (f32x4.add (v128.load (local.get $x)) (v128.load (local.get $update))))
      (local.set $update (i32.add (local.get $update) (i32.const 16)))
      (br_if $four (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 16))) (local.get $end))))))
