import { defineConfig } from 'vitest/config';

// `npm run cluster:test`: one cluster for all files, one after another.
export default defineConfig({
  test: {
    include: ['test/cluster/**/*.test.ts'],
    // npm run cluster:soak.
    exclude: ['test/cluster/soak.test.ts'],
    globalSetup: ['test/cluster/setup.ts'],
    pool: 'forks',
    fileParallelism: false,
    // Of those of a file that say so: pods, mostly, that wait for each other's processors.
    maxConcurrency: 3,
    // A whole Kubernetes on two processors is late at times. What was tried twice is printed as such.
    retry: 1,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    teardownTimeout: 60_000,
  },
});
