package main

import "context"

func runUp(context.Context, stdio, []string) error     { return nil }
func runAgent(context.Context, stdio, []string) error  { return nil }
func runVerify(context.Context, stdio, []string) error { return nil }
func runDebug(context.Context, stdio, []string) error  { return nil }
