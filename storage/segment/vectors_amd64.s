#include "textflag.h"

// What these functions compute is said in vectors_amd64.go, and why in needle_set.go and line_classes.go.

// A table for VPSHUFB, which takes bytes from within each 16 bytes of a register; 0x80 makes a zero.
// Here they are four copies of the same 16 bytes, of which eight grams of six bytes are made.
DATA gramBytes<>+0(SB)/8, $0x8080050403020100
DATA gramBytes<>+8(SB)/8, $0x8080060504030201
DATA gramBytes<>+16(SB)/8, $0x8080070605040302
DATA gramBytes<>+24(SB)/8, $0x8080080706050403
DATA gramBytes<>+32(SB)/8, $0x8080090807060504
DATA gramBytes<>+40(SB)/8, $0x80800a0908070605
DATA gramBytes<>+48(SB)/8, $0x80800b0a09080706
DATA gramBytes<>+56(SB)/8, $0x80800c0b0a090807
GLOBL gramBytes<>(SB), RODATA|NOPTR, $64

// Bytes to be broadcast.
DATA letters<>+0(SB)/8, $0x4141414141414141 // A
DATA letters<>+8(SB)/8, $0x1919191919191919 // Z - A
DATA letters<>+16(SB)/8, $0x2020202020202020 // a - A
DATA letters<>+24(SB)/8, $0x3030303030303030 // 0
DATA letters<>+32(SB)/8, $0x0909090909090909 // 9 - 0
DATA letters<>+40(SB)/8, $0x6161616161616161 // a
DATA letters<>+48(SB)/8, $0x0505050505050505 // f - a
DATA letters<>+56(SB)/8, $0x2d2d2d2d2d2d2d2d // -
DATA letters<>+64(SB)/8, $0xf8f8f8f8f8f8f8f8 // packed.First
GLOBL letters<>(SB), RODATA|NOPTR, $72

DATA hashing<>+0(SB)/8, $0x00000000ffffffff // shortGram
DATA hashing<>+8(SB)/8, $0x9fb21c651e98df25 // gramHash
DATA hashing<>+16(SB)/8, $0xd6e8feb86659fd93 // gramKey
GLOBL hashing<>(SB), RODATA|NOPTR, $24

#define GRAM_BYTES Z31
#define SHORT_GRAM Z30
#define HASH_FACTOR Z29
#define UPPER_A Z27
#define UPPER_SPAN Z26
#define CASE Z25
#define DIGIT_0 Z24
#define DIGIT_SPAN Z23
#define LOWER_A Z22
#define HEX_SPAN Z21
#define HASHES_BEFORE Z10
#define PAIRS_BEFORE Z11
#define MINIMA_BEFORE Z12

// GRAMS makes the hashes Z1 of the eight grams that begin at SI. K4 has those of four bytes.
#define GRAMS \
	VBROADCASTI32X4 (SI), Z1                \
	MOVWLZX       (BX), AX                  \
	MOVL          AX, R10                   \
	SHRL          $1, R10                   \
	ANDL          R10, AX                   \
	MOVL          AX, R10                   \
	SHRL          $2, R10                   \
	ANDL          R10, AX                   \
	NOTL          AX                        \
	KMOVB         AX, K4                    \
	VPSHUFB       GRAM_BYTES, Z1, Z1        \
	VPANDQ        SHORT_GRAM, Z1, K4, Z1    \
	VPMULLQ       HASH_FACTOR, Z1, Z1

// MINIMA makes the minima Z3 of the windows that end with the grams of Z1: of two pairs each. AX has
// those that differ from the one before.
#define MINIMA \
	VALIGNQ       $7, HASHES_BEFORE, Z1, Z2 \
	VPMINUQ       Z1, Z2, Z2                \
	VALIGNQ       $6, PAIRS_BEFORE, Z2, Z3  \
	VPMINUQ       Z2, Z3, Z3                \
	VALIGNQ       $7, MINIMA_BEFORE, Z3, Z4 \
	VPCMPUQ       $4, Z3, Z4, K5            \
	VMOVDQA64     Z1, HASHES_BEFORE         \
	VMOVDQA64     Z2, PAIRS_BEFORE          \
	VMOVDQA64     Z3, MINIMA_BEFORE         \
	KMOVB         K5, AX

// KEEP stores those of the minima that K5 has; so does AX.
#define KEEP \
	VPCOMPRESSQ   Z3, K5, Z5                \
	VMOVDQU64     Z5, (DX)                  \
	POPCNTL       AX, AX                    \
	LEAQ          (DX)(AX*8), DX

// func lineMinima(found *uint64, line *byte, n, grams int) int
TEXT ·lineMinima(SB), 0, $1344-40
	MOVQ line+8(FP), SI
	MOVQ n+16(FP), R8
	MOVQ grams+24(FP), R9

	VPBROADCASTQ letters<>+0(SB), UPPER_A
	VPBROADCASTQ letters<>+8(SB), UPPER_SPAN
	VPBROADCASTQ letters<>+16(SB), CASE
	VPBROADCASTQ letters<>+24(SB), DIGIT_0
	VPBROADCASTQ letters<>+32(SB), DIGIT_SPAN
	VPBROADCASTQ letters<>+40(SB), LOWER_A
	VPBROADCASTQ letters<>+48(SB), HEX_SPAN

	// Lower the text that the grams take, and mark its digits.
	LEAQ 8(R9), CX
	CMPQ R8, CX
	CMOVQLT R8, CX
	LEAQ text-1344(SP), DI
	LEAQ digits-192(SP), BX
	MOVQ $-1, AX
lower:
	CMPQ CX, $64
	JGE  load
	BZHIQ CX, AX, AX
load:
	KMOVQ     AX, K1
	VMOVDQU8.Z (SI), K1, Z0
	VPSUBB    UPPER_A, Z0, Z1
	VPCMPUB   $2, UPPER_SPAN, Z1, K2
	VPADDB    CASE, Z0, K2, Z0
	VPSUBB    DIGIT_0, Z0, Z1
	VPCMPUB   $2, DIGIT_SPAN, Z1, K2
	VPSUBB    LOWER_A, Z0, Z1
	VPCMPUB   $2, HEX_SPAN, Z1, K3
	KORQ      K2, K3, K2
	VMOVDQU64 Z0, (DI)
	KMOVQ     K2, (BX)
	ADDQ $64, SI
	ADDQ $64, DI
	ADDQ $8, BX
	SUBQ $64, CX
	JGT  lower

	// Find the minima.
	VMOVDQU64    gramBytes<>(SB), GRAM_BYTES
	VPBROADCASTQ hashing<>+0(SB), SHORT_GRAM
	VPBROADCASTQ hashing<>+8(SB), HASH_FACTOR
	VPTERNLOGQ   $0xff, HASHES_BEFORE, HASHES_BEFORE, HASHES_BEFORE
	VMOVDQA64    HASHES_BEFORE, PAIRS_BEFORE
	VMOVDQA64    HASHES_BEFORE, MINIMA_BEFORE
	LEAQ text-1344(SP), SI
	LEAQ digits-192(SP), BX
	MOVQ found+0(FP), DX
	// No window ends in the first three grams; the one that ends in the fourth is new.
	MOVL $0xf8, R12
	MOVL $0x08, R13

edge:
	// Here the line may end: a gram of which the fifth or sixth byte would lie beyond is undefined.
	GRAMS
	MOVQ      $16, R10
	CMPQ      R8, R10
	CMOVQLT   R8, R10
	MOVL      $0xffff, R11
	BZHIL     R10, R11, R11
	SHRL      $5, R11
	KMOVW     R11, K3
	KORW      K3, K4, K3
	KNOTW     K3, K3
	VPTERNLOGQ $0xff, Z1, Z1, K3, Z1
	MINIMA
	ORL       R13, AX
	MOVQ      $8, R10
	CMPQ      R9, R10
	CMOVQLT   R9, R10
	BZHIL     R10, R12, R12
	ANDL      R12, AX
	KMOVW     AX, K5
	KEEP
	MOVL      $0xff, R12
	XORL      R13, R13
	JMP       next

whole:
	GRAMS
	MINIMA
	KEEP

next:
	ADDQ $8, SI
	INCQ BX
	SUBQ $8, R8
	SUBQ $8, R9
	JLE  done
	CMPQ R8, $16
	JLT  edge
	CMPQ R9, $8
	JGE  whole
	JMP  edge

done:
	VZEROUPPER
	SUBQ found+0(FP), DX
	SHRQ $3, DX
	MOVQ DX, ret+32(FP)
	RET

// func mixKeys(keys *uint32, found *uint64, n int)
TEXT ·mixKeys(SB), NOSPLIT, $0-24
	MOVQ keys+0(FP), DI
	MOVQ found+8(FP), SI
	MOVQ n+16(FP), CX
	VPBROADCASTQ hashing<>+16(SB), Z0
	JMP  more

mix:
	VMOVDQU64 (SI), Z1
	VPSRLQ    $32, Z1, Z2
	VPXORQ    Z1, Z2, Z1
	VPMULLQ   Z0, Z1, Z1
	VPSRLQ    $43, Z1, Z1
	VPMOVQD   Z1, (DI)
	ADDQ $64, SI
	ADDQ $32, DI
	SUBQ $8, CX

more:
	TESTQ CX, CX
	JGT   mix
	VZEROUPPER
	RET

// func classify(digits, ids *uint64, text *byte, n int) (tokens uint64)
TEXT ·classify(SB), NOSPLIT, $0-40
	MOVQ digits+0(FP), DI
	MOVQ ids+8(FP), DX
	MOVQ text+16(FP), SI
	MOVQ n+24(FP), CX
	VPBROADCASTQ letters<>+0(SB), UPPER_A
	VPBROADCASTQ letters<>+24(SB), DIGIT_0
	VPBROADCASTQ letters<>+32(SB), DIGIT_SPAN
	VPBROADCASTQ letters<>+40(SB), LOWER_A
	VPBROADCASTQ letters<>+48(SB), HEX_SPAN
	VPBROADCASTQ letters<>+56(SB), Z20
	VPBROADCASTQ letters<>+64(SB), Z19
	KXORQ K6, K6, K6
	MOVQ  $-1, AX

classes:
	CMPQ CX, $64
	JGE  some
	BZHIQ CX, AX, AX
some:
	KMOVQ      AX, K1
	VMOVDQU8.Z (SI), K1, Z0
	VPSUBB     DIGIT_0, Z0, Z1
	VPCMPUB    $2, DIGIT_SPAN, Z1, K2
	VPSUBB     LOWER_A, Z0, Z1
	VPCMPUB    $2, HEX_SPAN, Z1, K3
	KORQ       K2, K3, K2
	VPSUBB     UPPER_A, Z0, Z1
	VPCMPUB    $2, HEX_SPAN, Z1, K3
	VPCMPEQB   Z20, Z0, K4
	VPCMPUB    $5, Z19, Z0, K5
	KMOVQ      K2, (DI)
	KORQ       K2, K3, K3
	KORQ       K3, K4, K3
	KMOVQ      K3, (DX)
	KORQ       K5, K6, K6
	ADDQ $64, SI
	ADDQ $8, DI
	ADDQ $8, DX
	SUBQ $64, CX
	JGT  classes

	KMOVQ K6, AX
	VZEROUPPER
	MOVQ AX, tokens+32(FP)
	RET
