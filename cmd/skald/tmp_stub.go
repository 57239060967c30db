package main

import "context"

func runVerify(context.Context, stdio, []string) error { return nil }
func runDebug(context.Context, stdio, []string) error  { return nil }
