package server

import (
	"context"
	"crypto/x509"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/skaldlog/skald/internal/auth"
	"github.com/skaldlog/skald/internal/fault"
)

// permission says what a route asks of its caller. A path that is not listed is one of the
// server's own pages: forgetting one closes a door rather than opening it.
func permission(pattern, method string) auth.Permission {
	switch {
	case pattern == "/ready", pattern == "/{$}", pattern == "/loki/api/v1/status/buildinfo":
		return auth.Public
	case pattern == "/metrics":
		return auth.Metrics
	case pattern == "/loki/api/v1/push", pattern == "/api/prom/push", pattern == "/otlp/v1/logs":
		return auth.Write
	case pattern == "/loki/api/v1/delete" && method != http.MethodGet && method != http.MethodHead:
		return auth.Delete
	case strings.HasPrefix(pattern, "/loki/api/v1/"), strings.HasPrefix(pattern, "/api/prom/"), strings.HasPrefix(pattern, "/prometheus/api/v1/"):
		return auth.Read
	}
	return auth.Admin
}

// guard finds out who calls, lets in who may, and leaves for TenantsOf whose data is asked for.
func (s *Server) guard(pattern string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := access{header: s.cfg.AuthEnabled}
		if need := permission(pattern, r.Method); s.cfg.Credentials != nil && need != auth.Public {
			var cert *x509.Certificate
			if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
				cert = r.TLS.VerifiedChains[0][0]
			}
			id, err := s.cfg.Credentials.Identify(r.Header.Get("Authorization"), cert)
			if err == nil && !id.May(need) {
				err = fault.New(fault.Forbidden, "%s has no %s permission", id.Name, need)
			}
			if err != nil {
				if fault.Of(err) == fault.Unauthenticated {
					w.Header().Set("WWW-Authenticate", `Basic realm="skald", charset="UTF-8"`)
				}
				WriteError(w, err)
				return
			}
			a.identity = id
		}
		h.ServeHTTP(w, r.WithContext(withAccess(r.Context(), a)))
	})
}

// grpcGuard does the same for gRPC. Calls between members go by certificate; all others are
// pushes and health checks.
type grpcGuard struct {
	header      bool
	credentials *auth.Credentials
	// members are the names whose certificates may make members' calls; empty means any
	// certificate that the listener's authority signed. strict refuses them without one.
	members []string
	strict  bool
}

// memberServices is what the names of the services begin with that members offer each other.
const memberServices = "/skald."

func (g *grpcGuard) admit(ctx context.Context, method string) (context.Context, error) {
	a := access{header: g.header}
	cert := peerCertificate(ctx)
	if strings.HasPrefix(method, memberServices) {
		if g.strict && !g.member(cert) {
			return nil, status.Error(codes.PermissionDenied, "this call is for members of the ring: it needs a client certificate that -grpc.tls.client-ca-file signed, with a name of -grpc.tls.member-names")
		}
		return withAccess(ctx, a), nil
	}
	if g.credentials != nil && !strings.HasPrefix(method, "/grpc.health.") {
		md, _ := metadata.FromIncomingContext(ctx)
		header := ""
		if values := md.Get("authorization"); len(values) > 0 {
			header = values[0]
		}
		id, err := g.credentials.Identify(header, cert)
		if err != nil {
			return nil, status.Error(codes.Unauthenticated, err.Error())
		}
		if !id.May(auth.Write) {
			return nil, status.Errorf(codes.PermissionDenied, "%s has no %s permission", id.Name, auth.Write)
		}
		a.identity = id
	}
	return withAccess(ctx, a), nil
}

func (g *grpcGuard) member(cert *x509.Certificate) bool {
	if cert == nil {
		return false
	}
	if len(g.members) == 0 {
		return true
	}
	for _, name := range g.members {
		if cert.Subject.CommonName == name || cert.VerifyHostname(name) == nil {
			return true
		}
	}
	return false
}

func peerCertificate(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil
	}
	return info.State.VerifiedChains[0][0]
}

func (g *grpcGuard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (g *grpcGuard) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := g.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, admittedStream{stream, ctx})
}

// admittedStream carries what is known about the caller.
type admittedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s admittedStream) Context() context.Context { return s.ctx }
