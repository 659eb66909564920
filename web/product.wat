;; The matrix product y = x W of the page, in WebAssembly with SIMD: instructions that work on four numbers at once.
;;
;; x [T, K], y [T, N]: rows padded to a multiple of 8 numbers, and T to a multiple of 4 rows.
;; W: in strips of 8 columns, [N/8, K, 8], so that it is read from beginning to end.
;; x, w, y: addresses in the page's memory, in bytes; a number (float32) has 4 of them, a vector (v128) has 16.
;;
;; A block of y, 4 rows of 8 columns, is held in 8 vectors while k runs: 2 loads of W and 4 of x then serve 64 operations.
;; k runs in pieces of 64, whose sums are added up: a long sum in float32 loses digits.
;;
;; Assembled by `wat2wasm web/product.wat -o web/product.wasm` (wabt). The same in JavaScript, for browsers without SIMD,
;; is multiplyPlainly in model.js.
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
      (br_if $strips (i32.gt_s (local.tee $N (i32.sub (local.get $N) (i32.const 8))) (i32.const 0))))))
