#include "textflag.h"

#define SYS_write 64

// void handler(int sig): writes one byte, the signal's number, into the pipe. A pipe
// that is full holds signals enough. The kernel calls it as a C function, on the signal
// stack of a thread of Go's, and restores all registers behind it.
TEXT handler<>(SB),NOSPLIT|NOFRAME,$0
	SUB	$16, RSP
	MOVD	R0, 0(RSP)
	MOVW	·writeEnd(SB), R0
	MOVD	RSP, R1
	MOVD	$1, R2
	MOVD	$SYS_write, R8
	SVC
	ADD	$16, RSP
	RET

// func entries() (handler, restorer, flag uintptr)
// The kernel brings what a handler returns to.
TEXT ·entries(SB),NOSPLIT,$0-24
	MOVD	$handler<>(SB), R0
	MOVD	R0, handler+0(FP)
	MOVD	ZR, restorer+8(FP)
	MOVD	ZR, flag+16(FP)
	RET
