package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/net/netutil"
)

// listenHTTP opens the port of a server block.
func listenHTTP(s *Server) (net.Listener, error) {
	conf, err := serverTLS(s)
	if err != nil {
		return nil, err
	}
	network := s.HTTPListenNetwork
	if network == "" {
		network = "tcp"
	}
	l, err := net.Listen(network, net.JoinHostPort(s.HTTPListenAddress, strconv.Itoa(s.HTTPListenPort)))
	if err != nil {
		return nil, fmt.Errorf("http_listen_port: %w", err)
	}
	if s.HTTPConnLimit > 0 {
		l = netutil.LimitListener(l, s.HTTPConnLimit)
	}
	if conf != nil {
		conf.NextProtos = []string{"http/1.1"}
		l = tls.NewListener(l, conf)
	}
	return l, nil
}

// serveHTTP answers requests until the context ends, and a second longer those that are being
// answered then.
func serveHTTP(ctx context.Context, s *Server, l net.Listener, h http.Handler, logger *slog.Logger) {
	srv := &http.Server{
		Handler: h, ReadTimeout: s.HTTPReadTimeout, WriteTimeout: s.HTTPWriteTimeout, IdleTimeout: s.HTTPIdleTimeout,
		ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	if s.HTTPReadHeaderTimeout > 0 {
		srv.ReadHeaderTimeout = s.HTTPReadHeaderTimeout
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		logger.Error("an HTTP server failed", "addr", l.Addr(), "err", err)
		<-ctx.Done()
	case <-ctx.Done():
		shut, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(shut) != nil {
			_ = srv.Close() // there is nothing to save
		}
		<-done
	}
}

// listen opens the agent's own port.
func (a *Agent) listen() (err error) {
	if a.server.Disable {
		return nil
	}
	if a.listener, err = listenHTTP(&a.server); err != nil {
		return fmt.Errorf("server: %w", err)
	}
	return nil
}

// serve answers on the agent's own port until the context ends.
func (a *Agent) serve(ctx context.Context) {
	if a.listener != nil {
		serveHTTP(ctx, &a.server, a.listener, a.handler(), a.log)
	}
}
