{{- define "skald.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "skald.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end }}

{{- define "skald.selector" -}}
app.kubernetes.io/name: skald
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "skald.labels" -}}
{{ include "skald.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: skald
{{- end }}

{{/* What the restricted Pod Security Standard asks of a pod and of a container. */}}
{{- define "skald.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "skald.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* A server pod. Takes root, role (also the target), data (the volume for data.dir), settings. */}}
{{- define "skald.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "skald.labels" . | nindent 4 }}
    {{- if eq $root.Values.mode "ring" }}
    skald/member: "true"
    {{- end }}
  annotations:
    checksum/config: {{ include (print $root.Template.BasePath "/config.yaml") $root | sha256sum }}
    prometheus.io/scrape: "true"
    prometheus.io/port: "3100"
spec:
  serviceAccountName: {{ include "skald.name" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    {{- include "skald.podSecurity" $root | nindent 4 }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  terminationGracePeriodSeconds: {{ .settings.terminationGracePeriodSeconds | default 60 }}
  topologySpreadConstraints:
    - topologyKey: topology.kubernetes.io/zone
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "skald.selector" . | nindent 10 }}
    - topologyKey: kubernetes.io/hostname
      maxSkew: 1
      whenUnsatisfiable: {{ if eq .role "ingester" }}DoNotSchedule{{ else }}ScheduleAnyway{{ end }}
      labelSelector:
        matchLabels:
          {{- include "skald.selector" . | nindent 10 }}
  {{- with $root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: skald
      image: {{ include "skald.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args:
        - serve
        - -config.file=/etc/skald/skald.yaml
        - -target={{ if eq .role "single" }}all{{ else }}{{ .role }}{{ end }}
      {{- if eq $root.Values.mode "ring" }}
      env:
        - name: SKALD_RING_INSTANCE_ID
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: POD_IP
          valueFrom:
            fieldRef:
              fieldPath: status.podIP
        - name: SKALD_MEMBERLIST_ADVERTISE
          value: $(POD_IP):7946
        # Clusters that copy the node's zone to its pods make replicas land in distinct zones.
        - name: SKALD_RING_ZONE
          valueFrom:
            fieldRef:
              fieldPath: metadata.labels['topology.kubernetes.io/zone']
      {{- end }}
      {{- with $root.Values.storage.existingSecret }}
      envFrom:
        - secretRef:
            name: {{ . }}
      {{- end }}
      ports:
        - {name: http, containerPort: 3100}
        - {name: grpc, containerPort: 9095}
        {{- if eq $root.Values.mode "ring" }}
        - {name: gossip, containerPort: 7946}
        - {name: gossip-udp, containerPort: 7946, protocol: UDP}
        {{- end }}
      readinessProbe:
        httpGet: {path: /ready, port: http}
        periodSeconds: 5
        failureThreshold: 3
      # Alive means that the process answers. Readiness, which depends on others, restarts nothing.
      livenessProbe:
        httpGet: {path: /metrics, port: http}
        initialDelaySeconds: 30
        periodSeconds: 20
        timeoutSeconds: 10
        failureThreshold: 6
      resources:
        {{- toYaml .settings.resources | nindent 8 }}
      securityContext:
        {{- include "skald.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/skald, readOnly: true}
        - {name: data, mountPath: /data}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: config
      configMap:
        name: {{ include "skald.name" $root }}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    {{- with .data }}
    - name: data
      {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}

{{- define "skald.budget" -}}
{{- if .root.Values.podDisruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "skald.name" .root }}-{{ .role }}
  labels:
    {{- include "skald.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "skald.selector" . | nindent 6 }}
{{- end }}
{{- end }}
