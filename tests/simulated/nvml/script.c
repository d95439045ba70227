/* The script's lines, and the closed forms over what they say. */
#include "simnvml.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUMBERS 7

/* ---- closed forms ---- */

/* Seconds within (-inf, x] modulo whole periods that a wave starting at 0 is high; only differences mean anything. */
static double high_seconds(const struct segment *s, double x)
{
    double on = s->duty * s->period;
    double periods = floor(x / s->period);
    return periods * on + fmin(x - periods * s->period, on);
}

static double segment_integral(const struct segment *s, double start, double end)
{
    double joules = s->low * (end - start);
    if (s->high != s->low)
        joules += (s->high - s->low) * (high_seconds(s, end - s->shift) - high_seconds(s, start - s->shift));
    return joules;
}

double signal_at(const struct signal *signal, double t)
{
    for (int i = 0; i < signal->count; i++) {
        const struct segment *s = &signal->segments[i];
        if (t < s->from || t >= s->to)
            continue;
        double x = (t - s->shift) / s->period;
        return s->high != s->low && x - floor(x) < s->duty ? s->high : s->low;
    }
    return signal->rest;
}

double signal_integral(const struct signal *signal, double start, double end)
{
    if (end < start)
        return -signal_integral(signal, end, start);
    double total = signal->rest * (end - start);
    for (int i = 0; i < signal->count; i++) {
        const struct segment *s = &signal->segments[i];
        double from = fmax(start, s->from), to = fmin(end, s->to);
        if (to > from)
            total += segment_integral(s, from, to) - signal->rest * (to - from);
    }
    return total;
}

double gauge_tick(const struct gauge *gauge, double t)
{
    return floor((t - gauge->phase) / gauge->update);
}

double gauge_value(const struct gauge *gauge, const struct signal *signal, double tick)
{
    double end = gauge->phase + tick * gauge->update;
    return signal_integral(signal, end - gauge->window, end) / gauge->window;
}

unsigned long long counter_value(const struct gpu *gpu, double t)
{
    double start = 0, millijoules = gpu->counter_base;
    for (int i = 0; i < gpu->reset_count; i++)
        if (gpu->resets[i] <= t && gpu->resets[i] >= start) {
            start = gpu->resets[i];
            millijoules = 0;
        }
    t = fmin(t, gpu->counter_frozen);
    double step = gpu->counter_step;
    double end = gpu->counter_phase + floor((t - gpu->counter_phase) / step) * step;
    if (end < start && start > 0) /* no step yet since the reset */
        end = start;
    const struct signal *power = gpu->counter_is_module ? &gpu->module_power : &gpu->power;
    millijoules += 1000 * gpu->counter_gain * signal_integral(power, start, end);
    return millijoules > 0 ? (unsigned long long)millijoules : 0;
}

/* ---- lines ---- */

static int numbers(const char *text, double *out, int wanted)
{
    char *end;
    for (int i = 0; i < wanted; i++, text = end) {
        out[i] = strtod(text, &end);
        if (end == text)
            return -1;
    }
    return 0;
}

static void *grown(void *items, int count, size_t size)
{
    return count % 64 == 0 ? realloc(items, (size_t)(count + 64) * size) : items;
}

/* "rest V" or "FROM TO constant V" or "FROM TO square LOW HIGH PERIOD DUTY SHIFT" */
static int read_signal(struct signal *signal, const char *text)
{
    struct segment s = {.period = 1};
    char from[64], to[64], shape[64];
    int used = 0;
    if (sscanf(text, "rest %lf", &signal->rest) == 1)
        return 0;
    if (sscanf(text, "%63s %63s %63s %n", from, to, shape, &used) != 3)
        return -1;
    s.from = strtod(from, NULL);
    s.to = strtod(to, NULL);
    double v[NUMBERS];
    if (strcmp(shape, "constant") == 0 && numbers(text + used, v, 1) == 0) {
        s.low = s.high = v[0];
    } else if (strcmp(shape, "square") == 0 && numbers(text + used, v, 5) == 0) {
        s.low = v[0], s.high = v[1], s.period = v[2], s.duty = v[3], s.shift = v[4];
    } else {
        return -1;
    }
    signal->segments = grown(signal->segments, signal->count, sizeof s);
    signal->segments[signal->count++] = s;
    return 0;
}

/* "FUNCTION X FROM TO"; X is an error's code, or the seconds of a slow call, or nothing to a hang */
static int read_rule(struct rules *rules, enum rule_kind kind, const char *text)
{
    struct rule r = {.kind = kind};
    int used = 0;
    double v[3];
    if (sscanf(text, "%63s %n", r.function, &used) != 1 || numbers(text + used, v, 3))
        return -1;
    r.code = (nvmlReturn_t)v[0];
    r.seconds = v[0];
    r.from = v[1];
    r.to = v[2];
    rules->items = grown(rules->items, rules->count, sizeof r);
    rules->items[rules->count++] = r;
    return 0;
}

static int read_gauge(struct gauge *gauge, const char *text)
{
    double v[3];
    if (numbers(text, v, 3) || v[0] <= 0 || v[1] <= 0)
        return -1;
    *gauge = (struct gauge){.update = v[0], .window = v[1], .phase = v[2]};
    return 0;
}

static int read_mig(struct gpu *gpu, const char *text)
{
    struct mig *mig = &gpu->migs[gpu->mig_count];
    if (gpu->mig_count == MAX_SLICES)
        return -1;
    if (sscanf(text, "%127s %u %u %u %llu %127s", mig->uuid, &mig->gpu_instance, &mig->compute_instance,
               &mig->slices, &mig->memory, mig->profile) != 6)
        return -1;
    gpu->slices[gpu->mig_count] = (struct device){.gpu = gpu, .slice = (int)gpu->mig_count};
    gpu->mig_count++;
    return 0;
}

static int read_rules_line(struct rules *rules, const char *key, const char *rest)
{
    if (strcmp(key, "error") == 0)
        return read_rule(rules, RULE_ERROR, rest);
    if (strcmp(key, "hang") == 0)
        return read_rule(rules, RULE_HANG, rest);
    if (strcmp(key, "slow") == 0)
        return read_rule(rules, RULE_SLOW, rest);
    return -1;
}

static int read_gpu_line(struct gpu *g, const char *key, const char *rest)
{
    double v[NUMBERS];
    int capacity;
#define IS(word) (strcmp(key, word) == 0)
    if (IS("name"))
        return snprintf(g->name, TEXT, "%s", rest) < 0;
    if (IS("serial"))
        return sscanf(rest, "%127s", g->serial) != 1;
    if (IS("pci"))
        return sscanf(rest, "%x:%x:%x", &g->pci_domain, &g->pci_bus, &g->pci_device) != 3;
    if (IS("architecture"))
        return sscanf(rest, "%u %d %d %u", &g->architecture, &g->capability[0], &g->capability[1], &g->brand) != 4;
    if (IS("memory"))
        return sscanf(rest, "%llu", &g->memory) != 1;
    if (IS("limit") && numbers(rest, v, 4) == 0) {
        g->limit = v[0], g->limit_min = v[1], g->limit_max = v[2], g->limit_default = v[3];
        return 0;
    }
    if (IS("power"))
        return read_signal(&g->power, rest);
    if (IS("module_power"))
        return read_signal(&g->module_power, rest);
    if (IS("scopes"))
        return sscanf(rest, "%d %d %d", &g->scopes, &g->counter_is_module, &g->one_scope) != 3;
    if (IS("utilization"))
        return read_signal(&g->utilization, rest);
    if (IS("memory_utilization"))
        return read_signal(&g->memory_utilization, rest);
    if (IS("memory_used"))
        return read_signal(&g->memory_used, rest);
    if (IS("instant"))
        return read_gauge(&g->instant, rest);
    if (IS("average"))
        return read_gauge(&g->average, rest);
    if (IS("activity"))
        return read_gauge(&g->activity, rest);
    if (IS("samples") && numbers(rest, v, 4) == 0) {
        capacity = (int)v[0];
        g->sample_capacity = capacity;
        g->samples = (struct gauge){.update = v[1], .window = v[2], .phase = v[3]};
        return capacity < 1;
    }
    if (IS("usage"))
        return sscanf(rest, "%d", &g->usage_is_average) != 1;
    if (IS("gain") && numbers(rest, v, 2) == 0) {
        g->gauge_gain = v[0], g->counter_gain = v[1];
        return 0;
    }
    if (IS("counter") && numbers(rest, v, 3) == 0) {
        g->counter_step = v[0], g->counter_phase = v[1], g->counter_base = v[2];
        return v[0] <= 0;
    }
    if (IS("frozen"))
        return numbers(rest, &g->counter_frozen, 1);
    if (IS("reset") && g->reset_count < MAX_RESETS)
        return numbers(rest, &g->resets[g->reset_count++], 1);
    if (IS("mig_mode"))
        return sscanf(rest, "%d", &g->mig_mode) != 1;
    if (IS("mig"))
        return read_mig(g, rest);
    if (IS("process") && g->process_count < MAX_PROCESSES) {
        struct process *p = &g->processes[g->process_count++];
        return sscanf(rest, "%u %llu", &p->pid, &p->memory) != 2;
    }
    return read_rules_line(&g->rules, key, rest);
}

static int read_line(struct script *script, const char *key, const char *rest)
{
    if (IS("gpu")) {
        struct gpu *g = &script->gpus[script->gpu_count];
        if (script->gpu_count == MAX_GPUS)
            return -1;
        g->card = (struct device){.gpu = g, .slice = -1};
        g->index = script->gpu_count++;
        g->mig_mode = -1;
        g->counter_frozen = INFINITY;
        return sscanf(rest, "%127s", g->uuid) != 1;
    }
    if (script->gpu_count > 0)
        return read_gpu_line(&script->gpus[script->gpu_count - 1], key, rest);
    if (IS("origin"))
        return sscanf(rest, "%ld %ld", &script->monotonic_ns, &script->realtime_ns) != 2;
    if (IS("driver"))
        return sscanf(rest, "%127s %d", script->driver, &script->cuda) != 2;
    return read_rules_line(&script->rules, key, rest);
#undef IS
}

int script_load(struct script *script, const char *path)
{
    char line[1024], key[64];
    int number = 0, used;
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) {
        fprintf(stderr, "simnvml: SIMNVML_SCRIPT=%s cannot be read\n", path ? path : "(not set)");
        return -1;
    }
    while (fgets(line, sizeof line, file)) {
        number++;
        line[strcspn(line, "\n")] = '\0';
        used = 0;
        if (sscanf(line, "%63s %n", key, &used) != 1 || key[0] == '#')
            continue;
        if (read_line(script, key, line + used)) {
            fprintf(stderr, "simnvml: %s:%d: not understood: %s\n", path, number, line);
            fclose(file);
            return -1;
        }
    }
    fclose(file);
    return 0;
}
