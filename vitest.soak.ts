import { defineConfig } from 'vitest/config';
import cluster from './vitest.cluster.ts';

// `npm run cluster:soak`: one test, of half an hour.
export default defineConfig({
  test: { ...cluster.test, include: ['test/cluster/soak.test.ts'], exclude: [], retry: 0 },
});
