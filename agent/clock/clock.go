// Package clock measures time that passes, for deadlines of the agent. The wall clock may be
// set, forwards or back, by an hour or by years; a deadline in its time would then be met at
// once, or never. Times that leave the agent, and those that are compared with times of files
// or with what an earlier run stored, are the wall clock's and come from time.Now.
package clock

import "time"

var start = time.Now()

// Now returns nanoseconds of a time that passes evenly. It is the time since 1970 as the wall
// clock had it when the process began, plus the time since then.
func Now() int64 { return At(time.Now()) }

// At returns what Now was, or will be, at a time that time.Now returned, or that was made of
// one by addition.
func At(t time.Time) int64 { return start.UnixNano() + int64(t.Sub(start)) }

// Until returns how long it takes until Now is at.
func Until(at int64) time.Duration { return time.Duration(at - Now()) }
