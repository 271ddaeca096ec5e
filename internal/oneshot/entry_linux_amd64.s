//go:build !cgo

#include "textflag.h"

#define SYS_arch_prctl 158
#define ARCH_SET_FS 0x1002

// func entry()
//
// The kernel starts the process here. The runtime then starts as if nothing had happened,
// on a stack that has one variable more.
TEXT ·entry(SB),NOSPLIT|NOFRAME,$0-0
	MOVQ	SP, ·stack(SB)
	// For calls from assembly: see package bare.
	LEAQ	·thread+8(SB), SI
	MOVL	$ARCH_SET_FS, DI
	MOVL	$SYS_arch_prctl, AX
	SYSCALL
	MOVQ	·stack(SB), AX
	ANDQ	$~15, SP
	SUBQ	$64, SP // arrange writes two words below what the kernel made
	MOVQ	AX, 0(SP)
	CALL	·arrange(SB)
	MOVQ	·stack(SB), SP
	JMP	_rt0_amd64_linux(SB)
