package tail

import (
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/skaldlog/skald/agent/clock"
)

// troubles are errors that say nothing about whether a file is there: a server of files is
// away, or the process has too many. They pass, and nothing is given up for them.
var troubles = []error{
	syscall.ESTALE, syscall.EIO, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ETIMEDOUT,
	syscall.EAGAIN, syscall.EINTR, syscall.ENOTCONN, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
}

// errTrouble says that a file could not be looked for.
var errTrouble = errors.New("the file system or the process is in trouble")

func isTrouble(err error) bool {
	return err != nil && slices.ContainsFunc(troubles, func(t error) bool { return errors.Is(err, t) })
}

// fault asks the test for an error; see Config.Fault.
func (t *Tailer) fault(op, path string) error {
	if t.cfg.Fault == nil {
		return nil
	}
	return t.cfg.Fault(op, path)
}

// await makes the log look again soon, after trouble.
func (l *tailLog) await() {
	l.trouble = true
	if at := clock.Now() + int64(time.Second); l.lookAgain == 0 || at < l.lookAgain {
		l.lookAgain = at
	}
}
