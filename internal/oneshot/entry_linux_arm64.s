//go:build !cgo

#include "textflag.h"

// func entry()
//
// The kernel starts the process here. The runtime then starts as if nothing had happened,
// on a stack that has one variable more.
TEXT ·entry(SB),NOSPLIT|NOFRAME,$0-0
	MOVD	RSP, R0
	MOVD	R0, ·stack(SB)
	MOVD	ZR, g
	SUB	$64, RSP // arrange writes two words below what the kernel made
	MOVD	R0, 8(RSP)
	CALL	·arrange(SB)
	MOVD	·stack(SB), R0
	MOVD	R0, RSP
	JMP	_rt0_arm64_linux(SB)
