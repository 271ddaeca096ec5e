#include "textflag.h"

#define SYS_write 1
#define SYS_rt_sigreturn 15
#define SA_RESTORER 0x04000000

// void handler(int sig): writes one byte, the signal's number, into the pipe. A pipe
// that is full holds signals enough. The kernel calls it as a C function, on the signal
// stack of a thread of Go's, and restores all registers behind it.
TEXT handler<>(SB),NOSPLIT|NOFRAME,$0
	SUBQ	$16, SP
	MOVQ	DI, 0(SP)
	MOVL	·writeEnd(SB), DI
	MOVQ	SP, SI
	MOVL	$1, DX
	MOVL	$SYS_write, AX
	SYSCALL
	ADDQ	$16, SP
	RET

// What a handler returns to: on this architecture a program brings it.
TEXT restorer<>(SB),NOSPLIT|NOFRAME,$0
	MOVL	$SYS_rt_sigreturn, AX
	SYSCALL
	INT	$3

// func entries() (handler, restorer, flag uintptr)
TEXT ·entries(SB),NOSPLIT,$0-24
	LEAQ	handler<>(SB), AX
	MOVQ	AX, handler+0(FP)
	LEAQ	restorer<>(SB), AX
	MOVQ	AX, restorer+8(FP)
	MOVQ	$SA_RESTORER, flag+16(FP)
	RET
