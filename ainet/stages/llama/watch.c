/* Copies one tensor of a running graph out of llama.cpp, and ends the graph there.
 *
 * This is an evaluation callback of ggml's scheduler (ggml_backend_sched_eval_callback), which is asked for every node:
 * in Python that takes 5 to 8 % of a small model's token. Nothing of ggml is included or linked; its functions are
 * handed over when the program runs. */

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct watch {
    const char *(*name)(const void *tensor);
    size_t (*nbytes)(const void *tensor);
    void (*get)(const void *tensor, void *data, size_t offset, size_t size);
    const char *wanted;
    char *target;
    size_t capacity; /* bytes of `target` */
    size_t written;  /* bytes of it that hold rows: each micro-batch adds its own */
    int seen;        /* micro-batches; -1 when their rows were too many */
};

size_t watch_size(void) { return sizeof(struct watch); }

bool watch_tensor(void *tensor, bool ask, void *data) {
    struct watch *watch = data;
    if (ask) {
        return strcmp(watch->name(tensor), watch->wanted) == 0;
    }
    size_t size = watch->nbytes(tensor);
    if (watch->seen < 0 || size > watch->capacity - watch->written) {
        watch->seen = -1;
        return false;
    }
    watch->get(tensor, watch->target + watch->written, 0, size);
    watch->written += size;
    watch->seen++;
    return false; /* the final norm and the output are left out */
}
