import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // With a cluster: npm run cluster:test.
    exclude: ['test/cluster/**'],
    // Native addons crash worker threads (vitest-dev/vitest#1488).
    pool: 'forks',
    fileParallelism: true,
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 30_000,
    teardownTimeout: 10_000,
  },
});
