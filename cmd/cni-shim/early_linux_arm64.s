//go:build !cgo

#include "textflag.h"

// func entry()
//
// The kernel starts the process here. forward is called on the stack that the kernel
// made; if it returns, it is as if the process had just been started.
TEXT ·entry(SB),NOSPLIT|NOFRAME,$0-0
	MOVD	RSP, R0
	MOVD	R0, ·stack(SB)
	MOVD	ZR, g
	SUB	$32, RSP
	MOVD	R0, 8(RSP)
	CALL	·forward(SB)
	MOVD	·stack(SB), R0
	MOVD	R0, RSP
	JMP	_rt0_arm64_linux(SB)
